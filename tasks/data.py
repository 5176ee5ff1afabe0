"""Data on the device: loaded once, sampled by key inside jit."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from tasks import storage
from tasks.embedded import EMBEDDED, split_rows
from tasks.errors import InputError
from tasks.importing import import_arrays

__all__ = ["Dataset", "Split", "flatten_images", "import_arrays", "load", "sample"]


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
      classes: number of values of the field "label", None where there is none; static.
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

    def flat(split: Split) -> Split:
        image = split.fields["image"]
        return Split({**split.fields, "image": image.reshape(image.shape[0], -1)})

    return replace(dataset, train=flat(dataset.train), valid=flat(dataset.valid))


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Read a prepared TFDS data set onto the device. Never downloads.

    Sets of `tasks.embedded` are prepared on first use. Images (uint8 fields of two or more axes per example)
    become float32 in [0, 1] here, once, so that no step converts them. The validation split is the set's own,
    else its test split, else a fifth of the training split by `tasks.embedded.split_rows`.

    Args:
      name: of `tasks.embedded.EMBEDDED`, of `import_arrays`, or of TFDS (`mnist`, `name/config`,
        `name:1.0.0`).
      data_dir: default TFDS_DATA_DIR, else ~/tensorflow_datasets, as TFDS does.

    Raises:
      InputError: for an unknown name (with the nearest ones), or data that do not fit.
      DataUnavailable: for a known set that is not there; the message holds the command that prepares it.
    """
    if name in EMBEDDED and not storage.is_prepared(name, data_dir):
        import_arrays(name, EMBEDDED[name](), data_dir)
    splits, classes = storage.read(name, data_dir)
    if "train" not in splits:
        raise InputError(f"data set {name!r}: expected a split called train, found {', '.join(splits)}")
    train = splits["train"]
    valid = next((splits[s] for s in ("valid", "validation", "test") if s in splits), None)
    if valid is None:
        if len(next(iter(train.values()))) < 2:
            raise InputError(f"data set {name!r}: one example, expected two at least, or a validation split")
        rows = split_rows(len(next(iter(train.values()))))
        train, valid = ({f: a[rows[s]] for f, a in train.items()} for s in ("train", "valid"))
    return Dataset(_on_device(name, train), _on_device(name, valid), name, classes)


def _on_device(name: str, arrays: Mapping[str, np.ndarray]) -> Split:
    return Split({field: jnp.asarray(_convert(name, field, array)) for field, array in arrays.items()})


def _convert(name: str, field: str, array: np.ndarray) -> np.ndarray:
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
