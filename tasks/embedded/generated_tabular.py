"""Generated tables: targets that a network or a published formula computes, and clusters of heavy-tailed sizes.

Field x float32 (N, F), standardised by the training split, with a label int64 (N,) or a target y float32 (N,)
standardised likewise.
"""

import numpy as np

from tasks.embedded.splits import Splits, power_law_labels, split_examples, standardise


def teacher_regression() -> Splits:
    """A network to be imitated (teacher and student, Saad & Solla 1995): 4,000 and 1,000 examples, 16 features.

    y = sum_k tanh(w_k . x) + noise, k in 1..8, w_k of deviation 1 / 2 an entry, x standard normal; the noise has a
    tenth of the deviation of the rest. A linear model explains four fifths of the variance, eight hidden units 99 %.
    """
    random = np.random.RandomState(6)
    x = random.normal(size=(5000, 16))
    y = np.tanh(x @ random.normal(0.0, 0.5, (16, 8))).sum(axis=1)
    y += random.normal(size=5000) * y.std() / 10
    return standardise(split_examples({"x": x, "y": y}), "x", "y")


def teacher_classification() -> Splits:
    """The classes of a random network: 4,000 and 1,000 examples, 12 features, 5 classes.

    label = argmax_c (W_2 tanh(W_1 x))_c, less the median of each output over the examples, so that no class is
    rare; 24 hidden units; W_1 of deviation 4 / sqrt(12) an entry, W_2 of deviation 1; x standard normal; one
    label in twenty is replaced by a uniform one. A linear classifier gets seven tenths right.
    """
    random = np.random.RandomState(7)
    x = random.normal(size=(5000, 12))
    hidden = np.tanh(x @ random.normal(0.0, 4 / np.sqrt(12), (12, 24)))
    output = hidden @ random.normal(size=(24, 5))
    label = np.argmax(output - np.median(output, axis=0), axis=1)
    replaced = random.uniform(size=5000) < 0.05
    label[replaced] = random.randint(5, size=replaced.sum())
    return standardise(split_examples({"x": x, "label": label.astype(np.int64)}), "x")


def friedman() -> Splits:
    """Friedman's first function (1991, Multivariate Adaptive Regression Splines): 3,200 and 800 examples, 10 features.

        y = 10 sin(pi x_1 x_2) + 20 (x_3 - 1/2)^2 + 10 x_4 + 5 x_5 + noise

    of x uniform in [0, 1]^10, of which five do not matter; the noise has deviation 1, a twenty-fifth of the variance
    of y. A linear model explains seven tenths of the variance.
    """
    random = np.random.RandomState(8)
    x = random.uniform(size=(4000, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y += random.normal(size=4000)
    return standardise(split_examples({"x": x, "y": y}), "x", "y")


def zipf_clusters() -> Splits:
    """One Gaussian cluster a class, with Zipf's frequencies: 4,800 and 1,200 examples, 16 features, 40 classes.

    Class k has a share in proportion to 1 / (k + 1): 1,405 examples down to 35, both splits together. Centres are
    standard normal, and so is the noise about them, so that neighbours overlap.
    """
    random = np.random.RandomState(9)
    label = power_law_labels(6000, 40, 1.0)
    x = random.normal(size=(40, 16))[label] + random.normal(size=(6000, 16))
    return standardise(split_examples({"x": x, "label": label}), "x")


def rare_clusters() -> Splits:
    """Two opposite clusters a class, and rare classes: 4,800 and 1,200 examples, 12 features, 48 classes.

    Class k has a share in proportion to (k + 1) ** -1.3: 2,077 examples down to 14, both splits together. An
    example of class k is s m_k plus noise of deviation 0.5, with a standard normal m_k and a sign s that is + or -
    equally likely: a linear classifier cannot tell the classes apart, and can only learn how frequent they are.
    """
    random = np.random.RandomState(10)
    label = power_law_labels(6000, 48, 1.3)
    sign = random.choice([-1.0, 1.0], (6000, 1))
    x = sign * random.normal(size=(48, 12))[label] + random.normal(0.0, 0.5, (6000, 12))
    return standardise(split_examples({"x": x, "label": label}), "x")
