"""Arrays in, a prepared TFDS data set out; without TensorFlow."""

import contextlib
import importlib.util
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks import stock
from tasks.errors import DataUnavailable, InputError
from tasks.storage import Arrays, complete, data_directory, first_line, quiet, read

_PARQUET_SHARD = 100  # examples; see the traps in tasks.storage
_ABANDONED = 3600.0  # seconds without a change after which an unfinished folder belongs to nobody


def import_arrays(name: str, splits: Mapping[str, Arrays], data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Write arrays as a prepared TFDS data set (version 1.0.0), and return its folder.

    The format is array_record, or parquet on platforms for which array_record has no wheel.

    Args:
      name: what `tasks.data.load` will know it by: lower case letters, digits and underscores. The name of a
        TFDS set is allowed and stands for that set where TFDS itself has not prepared it; those of `tasks.stock`
        must hold what these sets hold.
      splits: {split: {field: array of shape (N, ...)}}, N >= 1, numbers and booleans, or one field of texts, a
        bytes array of shape (N,). A split's arrays share N; the splits share their fields and each field's type
        and shape per example. Order, types and values are kept, except that a field "label" of non-negative
        integers, one per example, becomes a ClassLabel (int64).
      data_dir: default TFDS_DATA_DIR, else ~/tensorflow_datasets, as TFDS does.

    Importing the same arrays again changes nothing. Safe when several processes do it at once, and when one
    is killed half way: a set appears under its name by one rename, when it is complete.

    Raises:
      InputError: for malformed arrays, or where a set of other arrays has the name.
      DataUnavailable: where the folder cannot be written.
    """
    _check(name, splits)
    stock.check(name, splits)
    root = data_directory(data_dir)
    folder = root / name / "1.0.0"
    if not complete(folder):
        _write(name, splits, root, folder)
    elif not _equal(read(f"{name}:1.0.0", root).splits, splits):
        raise InputError(f"data set {name!r}: {folder} holds other arrays: choose another name, or remove it")
    return folder


def _write(name: str, splits: Mapping[str, Arrays], root: Path, folder: Path) -> None:
    portable = importlib.util.find_spec("array_record") is None
    try:
        root.mkdir(parents=True, exist_ok=True)
        with quiet():
            _prepare(name, splits, root, "parquet" if portable else "array_record")
    except (OSError, RuntimeError) as error:  # array_record reports a full disk as a RuntimeError
        # The loser of a race cannot rename its folder over the winner's, which is as good.
        if not complete(folder):
            raise DataUnavailable(
                f"data set {name!r} cannot be written to {root} ({first_line(error)}): "
                f"set TFDS_DATA_DIR to a folder with room"
            ) from error
    if not complete(folder):
        raise DataUnavailable(f"data set {name!r}: {folder} holds a part of one: remove it and try again")
    for other in folder.parent.glob("incomplete.*"):
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > _ABANDONED:
                shutil.rmtree(other)


def _prepare(name: str, splits: Mapping[str, Arrays], root: Path, file_format: str) -> None:
    import tensorflow_datasets as tfds

    def feature(field: str) -> Any:
        arrays = [fields[field] for fields in splits.values()]
        if field == "label" and all(a.ndim == 1 and a.dtype.kind in "iu" and a.min() >= 0 for a in arrays):
            return tfds.features.ClassLabel(num_classes=1 + max(int(a.max()) for a in arrays))
        if arrays[0].dtype.kind == "S":
            return tfds.features.Text()
        shape, dtype = arrays[0].shape[1:], arrays[0].dtype
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)

    features = {field: feature(field) for field in next(iter(splits.values()))}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Yields the rows of the arrays in order."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(arrays) for split, arrays in splits.items()}

        def _generate_examples(self, arrays: Arrays) -> Iterator[tuple[int, dict[str, Any]]]:
            for row in range(_length(arrays)):
                yield row, {field: array[row] for field, array in arrays.items()}

    Builder.name = name
    lengths = [_length(arrays) for arrays in splits.values()]
    shards = math.ceil(max(lengths) / _PARQUET_SHARD) if file_format == "parquet" else None
    if shards and shards > min(lengths):  # TFDS cuts every split into the same number
        raise InputError(f"data set {name!r}: in parquet each split needs {shards} examples: install array_record")
    Builder(data_dir=os.fspath(root), file_format=file_format).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False, num_shards=shards)
    )


def _check(name: str, splits: Mapping[str, Arrays]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"data set name {name!r}: expected lower case letters, digits and underscores")
    if not splits or not all(splits.values()):
        raise InputError(f"data set {name!r}: expected {{split: {{field: array}}}}, one of each at least")
    first = next(iter(splits.values()))
    for split, arrays in splits.items():
        if not re.fullmatch(r"[a-z]\w*", split):
            raise InputError(f"data set {name!r}: split {split!r}: expected letters, digits and underscores")
        if arrays.keys() != first.keys():
            raise InputError(
                f"data set {name!r}: split {split!r} has fields {sorted(arrays)}, expected {sorted(first)}"
            )
        for field, array in arrays.items():
            where = f"data set {name!r}: field {field!r} of split {split!r}"
            found = f"{array.dtype} of shape {array.shape}"
            is_text = array.dtype.kind == "S" and array.ndim == 1 and len(arrays) == 1
            if (array.dtype.kind not in "biuf" and not is_text) or array.ndim == 0:
                raise InputError(f"{where} is {found}, expected numbers of shape (N, ...), or bytes alone")
            if array.shape[0] != (count := max(1, _length(arrays))):
                raise InputError(f"{where} is {found}, expected {count} examples as in the first field")
            if is_text and first[field].dtype.kind == "S":
                continue  # its type is the length of its longest text
            if (array.dtype, array.shape[1:]) != (first[field].dtype, first[field].shape[1:]):
                expected = f"{first[field].dtype} of shape (N, ...) = {first[field].shape}"
                raise InputError(f"{where} is {found}, expected {expected} as in the first split")


def _equal(left: Mapping[str, Arrays], right: Mapping[str, Arrays]) -> bool:
    def same(a: np.ndarray, b: np.ndarray) -> bool:
        if b.dtype.kind == "S":
            return a.tolist() == b.tolist()
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")

    if left.keys() != right.keys() or any(left[s].keys() != right[s].keys() for s in left):
        return False
    return all(same(left[s][f], right[s][f]) for s in left for f in left[s])


def _length(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))
