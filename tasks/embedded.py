"""Real data that come with scikit-learn: nothing to download, the same bits everywhere."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Splits = dict[str, dict[str, np.ndarray]]


def split_rows(count: int) -> dict[str, np.ndarray]:
    """The rows of the splits "train" and "valid" of `count` examples: a fifth, rounded up, is held out.

    A fixed permutation, because such sets are often stored sorted. RandomState, because NumPy has frozen its
    stream for good (NEP 19), unlike Generator's.
    """
    order = np.random.RandomState(0).permutation(count)
    held_out = -(-count // 5)
    return {"train": order[held_out:], "valid": order[:held_out]}


def digits() -> Splits:
    """Handwritten digits: 1,437 examples to train on and 360 to validate, 10 classes.

    image float32 (N, 8, 8, 1) in [0, 1], label int64 (N,). This is the test part of the UCI set "Optical
    Recognition of Handwritten Digits" (CC BY 4.0), as bundled with scikit-learn; its pixels are counts from 0
    to 16, so that dividing by 16 is exact.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    image = (bunch.images[..., None] / 16).astype(np.float32)
    label = bunch.target.astype(np.int64)
    return {s: {"image": image[rows], "label": label[rows]} for s, rows in split_rows(len(label)).items()}


EMBEDDED: Mapping[str, Callable[[], Splits]] = {"sklearn_digits": digits}
"""{name: what makes its splits} of the sets that `tasks.data.load` prepares by itself."""
