"""Data on the device: loaded once, sampled by key inside jit."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from tasks import storage
from tasks.embedded import EMBEDDED, split_rows
from tasks.errors import DataTooLarge, InputError
from tasks.importing import import_arrays

__all__ = ["Dataset", "Split", "flatten_images", "import_arrays", "load", "resize_images", "sample", "to_grey"]

LARGEST = 2 * 2**30
"""Bytes on the device above which `load` refuses a set; `tasks.streaming` holds a part of it at a time."""

TEXT_VALUES = 128
"""Values of the tokens of a text: ASCII."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split.

    Attributes:
      fields: {name: array of shape (N, ...)}; floats are float32, integers int32.
    """

    fields: Mapping[str, Any]

    @property
    def size(self) -> int:
        """N, the number of examples."""
        return next(iter(self.fields.values())).shape[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set on the device, a pytree.

    Attributes:
      train: what batches are drawn from.
      valid: disjoint from it.
      name: the name it was loaded by; static.
      classes: number of values of the field "label" or "token", None where there is neither; static.
    """

    train: Split
    valid: Split
    name: str = field(metadata={"static": True})
    classes: int | None = field(default=None, metadata={"static": True})

    def split(self, name: str) -> Split:
        """The split called "train" or "valid"; InputError for another name."""
        if name not in ("train", "valid"):
            raise InputError(f"split {name!r}: expected train or valid")
        return self.train if name == "train" else self.valid


def sample(split: Split, key: Key[Array, ""], batch_size: int) -> dict[str, Array]:
    """Draw `batch_size` examples with replacement: {field: array of shape (B, ...)}.

    One draw of B words and one gather a field, because this runs at every inner step of meta-training. A
    remainder takes 60 % of the time of `jax.random.randint`, which draws twice against bias; here the odds of
    two examples differ by a factor of at most 1 + N / 2**32.
    """
    words = jax.random.bits(key, (batch_size,), jnp.uint32)
    rows = (words % np.uint32(split.size)).astype(jnp.int32)
    return {name: array.at[rows].get(mode="promise_in_bounds") for name, array in split.fields.items()}


def flatten_images(dataset: Dataset) -> Dataset:
    """The same data with each image as one vector: (N, H, W, C) becomes (N, H * W * C)."""
    return _map_images(dataset, lambda image: image.reshape(image.shape[0], -1))


def to_grey(dataset: Dataset) -> Dataset:
    """The same data with images of one channel: (N, H, W, 3) becomes (N, H, W, 1); grey ones stay as they are.

    The luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, as Pillow and TensorFlow compute it.

    Raises:
      InputError: for images that have neither one nor three channels.
    """

    def grey(image: jax.Array) -> jax.Array:
        if image.shape[3:] == (1,):
            return image
        if image.shape[3:] != (3,):
            raise InputError(f"data set {dataset.name!r} has images {image.shape}, expected (N, H, W, 1 or 3)")
        red, green, blue = jnp.split(image, 3, axis=3)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    return _map_images(dataset, grey)


def resize_images(dataset: Dataset, size: int) -> Dataset:
    """The same data with images of size x size pixels: (N, H, W, C) becomes (N, size, size, C).

    Linear interpolation by `jax.image.resize`, which averages over the area of the new pixel when it shrinks an image
    (antialiasing); the published code of Celo samples four pixels instead (`tf.image.resize`), and drops the rest.

    Raises:
      InputError: for a size below 1, or images that are not (N, H, W, C).
    """

    def resize(image: jax.Array) -> jax.Array:
        if size < 1 or image.ndim != 4:
            raise InputError(f"data set {dataset.name!r} has images {image.shape}, not to be resized to {size} pixels")
        return jax.image.resize(image, (image.shape[0], size, size, image.shape[3]), "linear")

    return _map_images(dataset, resize)


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Read a prepared TFDS data set onto the device. Never downloads.

    Sets of `tasks.embedded` are prepared on first use. Images (uint8 fields of two or more axes per example)
    become float32 in [0, 1] here, once, so that no step converts them. The validation split is the set's own,
    else its test split, else a fifth of the training split by `tasks.embedded.split_rows`; other splits are not read.

    A set of texts (see `tasks.storage.find`) becomes one field token (N,), the bytes of its examples joined by line
    feeds, with "?" for each byte beyond ASCII; rows of a field "token" are joined likewise, with nothing between
    them. Without another split, the last fifth of such a sequence is the validation split.

    Args:
      name: of `tasks.embedded.EMBEDDED`, of `import_arrays`, or of TFDS (`mnist`, `name/config`,
        `name:1.0.0`).
      data_dir: default TFDS_DATA_DIR, else ~/tensorflow_datasets, as TFDS does.

    Raises:
      InputError: for an unknown name (with the nearest ones), or data that do not fit.
      DataTooLarge: for more than 2 GiB of them.
      DataUnavailable: for a known set that is not there; the message holds the command that prepares it.
    """
    stored = find_splits(name, data_dir)
    size = 4 * sum(stored.values(split) for split in {"train", held_out(stored) or "train"})
    if size > LARGEST:
        raise DataTooLarge(
            f"data set {name!r} takes {size / 2**30:.1f} GiB on the device, expected {LARGEST / 2**30:.0f} at most: "
            f"read it with tasks.streaming.stream"
        )
    train = convert(stored, storage.read_split(stored, "train"))
    if (split := held_out(stored)) is not None:
        valid = convert(stored, storage.read_split(stored, split))
    else:
        rows = held_rows(name, train)
        train, valid = ({f: a[rows[s]] for f, a in train.items()} for s in ("train", "valid"))
    return Dataset(on_device(train), on_device(valid), name, _classes(stored, (train, valid)))


def find_splits(name: str, data_dir: str | os.PathLike[str] | None = None) -> storage.Stored:
    """A set with a split called train, prepared now if it is embedded; errors as in `load`."""
    if name in EMBEDDED and not storage.is_prepared(name, data_dir):
        import_arrays(name, EMBEDDED[name](), data_dir)
    stored = storage.find(name, data_dir)
    if "train" not in stored.sizes:
        raise InputError(f"data set {name!r}: expected a split called train, found {', '.join(stored.sizes)}")
    return stored


def held_out(stored: storage.Stored) -> str | None:
    """The split to validate on; None where it has to be cut from the training split."""
    return next((s for s in ("valid", "validation", "test") if s in stored.sizes), None)


def held_rows(name: str, arrays: storage.Arrays) -> dict[str, np.ndarray]:
    """The rows of "train" and "valid" of a set that is not split: at random, but the end of a sequence."""
    count = len(next(iter(arrays.values())))
    if count < 2:
        raise InputError(f"data set {name!r}: one example, expected two at least, or a validation split")
    if "token" not in arrays:
        return split_rows(count)
    train, valid = np.split(np.arange(count), [count - -(-count // 5)])
    return {"train": train, "valid": valid}


def convert(stored: storage.Stored, arrays: storage.Arrays) -> dict[str, np.ndarray]:
    """Fields as a `Split` has them, on the host."""
    if stored.is_text:
        (texts,) = arrays.values()
        token = np.frombuffer(b"\n".join(texts.tolist()), np.uint8)
        return {"token": np.where(token < TEXT_VALUES, token, ord("?")).astype(np.int32)}
    return {field: _convert(stored.name, field, array) for field, array in arrays.items()}


def on_device(arrays: storage.Arrays) -> Split:
    """Converted fields on the device."""
    return Split({field: jnp.asarray(array) for field, array in arrays.items()})


def _classes(stored: storage.Stored, splits: Sequence[storage.Arrays]) -> int | None:
    if stored.is_text:
        return TEXT_VALUES
    if all("token" in arrays and arrays["token"].dtype == np.int32 for arrays in splits):
        return 1 + max(int(arrays["token"].max()) for arrays in splits)
    return stored.classes


def _map_images(dataset: Dataset, change: Callable[[jax.Array], jax.Array]) -> Dataset:
    if "image" not in dataset.train.fields:
        raise InputError(f"data set {dataset.name!r} has fields {', '.join(dataset.train.fields)}, expected image")
    train, valid = (Split({**s.fields, "image": change(s.fields["image"])}) for s in (dataset.train, dataset.valid))
    return replace(dataset, train=train, valid=valid)


def _convert(name: str, field: str, array: np.ndarray) -> np.ndarray:
    if field == "token":
        array = array.reshape(-1)
    if array.dtype == np.uint8 and array.ndim >= 3:
        return array.astype(np.float32) / 255
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind == "b":
        return array
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise InputError(f"data set {name!r}: field {field!r} holds integers beyond 32 bits: store them as floats")
    return array.astype(np.int32)
