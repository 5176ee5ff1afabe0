"""Generated sequences whose next token depends on tokens far back.

Field token int32 (N, L), a sequence each row; `tasks.data.load` joins the rows of a split to a stream of N * L tokens.
"""

import numpy as np

from tasks.embedded.splits import Splits, split_examples


def delayed_copy() -> Splits:
    """The copy task of Hochreiter & Schmidhuber (1997), as a stream: 3,200 and 800 sequences of 32 tokens, 10 values.

        sequence = s_1 .. s_10, ten blanks (0), recall (1), s_1 .. s_10, blank (0)

    with symbols s_i uniform in 2..9. Who remembers everything still cannot know the first ten: the lowest possible
    mean loss is 10/32 ln 8 = 0.650 nats; who knows the place in the sequence only pays 20/32 ln 8 = 1.300. A copy is
    21 tokens away, so that the trained windows should be longer than that.
    """
    count, symbols, delay = 4000, 10, 10
    random = np.random.RandomState(4)
    symbol = random.randint(2, 10, (count, symbols))
    blank, recall = np.zeros((count, delay), int), np.ones((count, 1), int)
    token = np.concatenate([symbol, blank, recall, symbol, blank[:, :1]], axis=1)
    return split_examples({"token": token.astype(np.int32)})


def brackets() -> Splits:
    """Nested brackets with numbers: 2,400 and 600 sequences of 65 tokens, 17 values.

    A sequence is an end mark (0) and 16 brackets that are opened and closed in order, a Dyck language of bounded
    depth (Hewitt et al. 2020, arXiv:2010.07515) of three types: opening 1..3, closing 4..6. Each opening is followed
    by a digit (7..16, uniform), and its closing by the same digit. A bracket is opened rather than closed with
    probability 1/2 where both are possible: depth 0 opens, depth 6 closes, and so does a sequence that has opened
    all 16. To be learned: the type and the digit of each closing, which take a stack.
    """
    count, pairs, deepest, types = 3000, 16, 6, 3
    random = np.random.RandomState(5)
    every = np.arange(count)
    depth, opened = np.zeros(count, int), np.zeros(count, int)
    kinds, digits = (np.zeros((count, deepest), int) for _ in range(2))
    token = np.zeros((count, 1 + 4 * pairs), int)
    for step in range(2 * pairs):
        heads, kind, digit = (random.randint(values, size=count) for values in (2, types, 10))
        opens = (depth < deepest) & (opened < pairs) & ((depth == 0) | (heads == 1))
        level = np.where(opens, depth, depth - 1)
        kinds[every[opens], level[opens]] = kind[opens]
        digits[every[opens], level[opens]] = digit[opens]
        token[:, 1 + 2 * step] = 1 + kinds[every, level] + types * ~opens
        token[:, 2 + 2 * step] = 7 + digits[every, level]
        depth += np.where(opens, 1, -1)
        opened += opens
    return split_examples({"token": token.astype(np.int32)})
