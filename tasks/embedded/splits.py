"""Parts that the embedded sets share: which examples are held out, standardisation, and heavy-tailed labels.

Random numbers come from RandomState, because NumPy has frozen its stream for good (NEP 19), unlike Generator's.
"""

import numpy as np

Splits = dict[str, dict[str, np.ndarray]]


def split_rows(count: int) -> dict[str, np.ndarray]:
    """The rows of the splits "train" and "valid" of `count` examples: a fifth, rounded up, is held out.

    A fixed permutation, because such sets are often stored sorted.
    """
    order = np.random.RandomState(0).permutation(count)
    held_out = -(-count // 5)
    return {"train": order[held_out:], "valid": order[:held_out]}


def split_examples(fields: dict[str, np.ndarray]) -> Splits:
    """The fields, of N examples each, in two splits by `split_rows`."""
    rows = split_rows(len(next(iter(fields.values()))))
    return {split: {name: array[r] for name, array in fields.items()} for split, r in rows.items()}


def split_text(text: bytes) -> Splits:
    """One document in two splits: its last fifth, rounded up, is held out: windows share nothing."""
    cut = len(text) - -(-len(text) // 5)
    return {split: {"text": np.array([part])} for split, part in (("train", text[:cut]), ("valid", text[cut:]))}


def standardise(splits: Splits, *fields: str) -> Splits:
    """The named fields less their mean, over their deviation, both of the training split; float32.

    A column without variance becomes zero in the training split.
    """
    result = {split: dict(arrays) for split, arrays in splits.items()}
    for field in fields:
        train = splits["train"][field].astype(np.float64)
        mean, deviation = train.mean(axis=0), train.std(axis=0)
        deviation = np.where(deviation == 0, 1.0, deviation)
        for arrays in result.values():
            arrays[field] = ((arrays[field] - mean) / deviation).astype(np.float32)
    return result


def power_law_labels(count: int, classes: int, exponent: float) -> np.ndarray:
    """Labels int64 (count,), sorted, with class k in proportion to (k + 1) ** -exponent; each class at least once.

    The counts are the rounded shares, the remainder going to class 0, not draws: frequencies are exact.
    """
    share = (1.0 + np.arange(classes)) ** -exponent
    counts = np.maximum(1, np.round(count * share / share.sum()).astype(int))
    counts[0] += count - counts.sum()
    return np.repeat(np.arange(classes), counts)
