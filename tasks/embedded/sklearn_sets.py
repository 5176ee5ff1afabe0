"""Real data that come with scikit-learn, and photographs among them; nothing to download.

Tables have the field x float32 (N, F), standardised by the mean and deviation of the training split, and a label
int64 (N,) or a target y float32 (N,), standardised likewise. The UCI sets are CC BY 4.0.
"""

from typing import Any

import numpy as np

from tasks.embedded.splits import Splits, split_examples, standardise
from tasks.errors import DataUnavailable

_PATCH = 8  # pixels
_BANDS = 4  # of a photo's height
_SIDE, _BLOCK = 64, 6  # the pixels of an image to be represented, and how many of the photo each averages


def digits() -> Splits:
    """Handwritten digits: 1,437 examples to train on and 360 to validate, 10 classes.

    image float32 (N, 8, 8, 1) in [0, 1], label int64 (N,). This is the test part of the UCI set "Optical
    Recognition of Handwritten Digits" (CC BY 4.0), as bundled with scikit-learn; its pixels are counts from 0
    to 16, so that dividing by 16 is exact.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    image = (bunch.images[..., None] / 16).astype(np.float32)
    return split_examples({"image": image, "label": bunch.target.astype(np.int64)})


def wine() -> Splits:
    """Chemical analyses of wines of three growers (UCI "Wine"): 142 and 36 examples, 13 features, 3 classes.

    Nearly separable by a linear model.
    """
    from sklearn.datasets import load_wine

    return _classification(load_wine())


def iris() -> Splits:
    """Sizes of iris flowers (UCI "Iris", Fisher 1936): 120 and 30 examples, 4 features, 3 classes.

    One class is separable from the rest by a linear model, the other two overlap.
    """
    from sklearn.datasets import load_iris

    return _classification(load_iris())


def breast_cancer() -> Splits:
    """Nuclei of cells in images (UCI "Breast Cancer Wisconsin (Diagnostic)"): 455 and 114 examples, 30 features.

    2 classes, 63 % of the larger; a linear model reaches 97 %.
    """
    from sklearn.datasets import load_breast_cancer

    return _classification(load_breast_cancer())


def diabetes() -> Splits:
    """Progression of diabetes after a year (Efron et al. 2004): 353 and 89 examples, 10 features, target y.

    A linear model explains a third of the held-out variance. Published with the LARS paper, without a licence.
    """
    from sklearn.datasets import load_diabetes

    bunch: Any = load_diabetes(scaled=False)
    return standardise(split_examples({"x": bunch.data, "y": bunch.target}), "x", "y")


def photos() -> Splits:
    """Patches of two photographs, china.jpg and flower.jpg: 6,784 and 1,696 examples, 8 classes.

    image uint8 (N, 8, 8, 3), the patches of a grid without overlap; label int64 (N,) is 4 * photo + band, where the
    four bands of equal height run from the top (0) to the bottom (3). To be learned: colours and textures of
    sky, roof, leaf and petal. The photos are CC BY 2.0, by danielbuechele and vultilion, as bundled with scikit-learn.
    Neighbours in different splits resemble each other, so that validation is easier than on a third photo.
    """
    patches, labels = [], []
    for number, photo in enumerate(_photos()):
        rows, columns = photo.shape[0] // _PATCH, photo.shape[1] // _PATCH
        grid = photo[: rows * _PATCH, : columns * _PATCH].reshape(rows, _PATCH, columns, _PATCH, 3)
        patches.append(grid.swapaxes(1, 2).reshape(-1, _PATCH, _PATCH, 3))
        labels.append(_BANDS * number + np.repeat(np.arange(rows) * _BANDS // rows, columns))
    return split_examples({"image": np.concatenate(patches), "label": np.concatenate(labels)})


def china_pixels() -> Splits:
    """One image as a function from place to colour, for implicit representations: 3,276 and 820 pixels of china.jpg.

    x float32 (N, 2), the centre of a pixel as (column, row), from -1 (left, top) to 1; y float32 (N, 3), red, green
    and blue, each standardised by the training pixels. The middle 384 x 384 pixels of the photo of `photos`, in
    64 x 64 averages. A linear function of the place explains three fifths of the variance, detail takes many steps.
    """
    return _pixels(_photos()[0])


def flower_pixels() -> Splits:
    """The same of flower.jpg, a flower before a dark ground; a linear function of the place explains nothing."""
    return _pixels(_photos()[1])


def _classification(bunch: Any) -> Splits:
    return standardise(split_examples({"x": bunch.data, "label": bunch.target.astype(np.int64)}), "x")


def _photos() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    try:
        bunch: Any = load_sample_images()
    except ImportError as error:
        raise DataUnavailable("scikit-learn's photos cannot be decoded: run `pip install pillow`") from error
    return bunch.images


def _pixels(photo: np.ndarray) -> Splits:
    top, left = ((length - _SIDE * _BLOCK) // 2 for length in photo.shape[:2])
    middle = photo[top : top + _SIDE * _BLOCK, left : left + _SIDE * _BLOCK]
    colour = middle.reshape(_SIDE, _BLOCK, _SIDE, _BLOCK, 3).mean(axis=(1, 3)).reshape(-1, 3)
    centre = ((2 * np.arange(_SIDE) + 1) / _SIDE - 1).astype(np.float32)
    place = np.stack([np.tile(centre, _SIDE), np.repeat(centre, _SIDE)], axis=1)
    return standardise(split_examples({"x": place, "y": colour}), "y")
