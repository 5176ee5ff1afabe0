"""What the stock data sets that tasks know by name hold: a user's own copy must be of that kind."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tasks.errors import InputError


class Images(NamedTuple):
    """Labelled images."""

    height: int
    width: int
    channels: int
    classes: int


STOCK: Mapping[str, Images | None] = {
    "mnist": Images(28, 28, 1, 10),
    "fashion_mnist": Images(28, 28, 1, 10),
    "cifar10": Images(32, 32, 3, 10),
    "cifar100": Images(32, 32, 3, 100),
    "svhn_cropped": Images(32, 32, 3, 10),
    "lm1b": None,
    "tiny_shakespeare": None,
}
"""Name -> images, or None for a text."""


def check(name: str, splits: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Refuse arrays under a stock name that are not of its kind; other names are free.

    Raises:
      InputError: the message has what was expected.
    """
    for split, arrays in splits.items() if name in STOCK else ():
        kind = STOCK[name]
        if kind is None:
            if not any(array.dtype.kind == "S" for array in arrays.values()):
                raise _refused(name, split, ", ".join(arrays), "a text (import a .txt file)")
            continue
        shape, expected = kind[:3], f"image (N, {', '.join(map(str, kind[:3]))}) and label below {kind.classes}"
        image, label = arrays.get("image"), arrays.get("label")
        if image is None or label is None:
            raise _refused(name, split, f"fields {', '.join(arrays)}", expected)
        if image.shape[1:] != shape:
            raise _refused(name, split, f"image {image.shape}", expected)
        if label.ndim != 1 or label.dtype.kind not in "iu" or label.min() < 0 or label.max() >= kind.classes:
            raise _refused(name, split, f"label from {label.min()} to {label.max()}", expected)


def _refused(name: str, split: str, found: str, expected: str) -> InputError:
    return InputError(
        f"data set name {name!r} stands for the stock set, expected {expected}; split {split!r} has {found}: choose "
        "another name"
    )
