"""Prepared data sets on disk, in the format of TensorFlow Datasets (TFDS), read without TensorFlow.

Reads any set that TFDS has prepared in a format with random access (array_record or parquet);
`tasks.importing` turns arrays into such a set. Everything here is NumPy on the host; `tasks.data` puts the
arrays on the device, and `tasks.streaming` a part of them at a time.

Traps of TFDS 4.9 that these two modules exist to keep away from everybody else:

* `tfds.load` and `as_dataset` import TensorFlow; `as_data_source` does not.
* `tfds.data_source(name, data_dir=...)` falls back to TFRecord, which needs TensorFlow. We ask the files.
* A set that is not prepared gives a KeyError about empty splits, an unknown name a list of all 246 names, and
  a download without a network retries for minutes. Each is one line here, at once: reading never downloads.
* Tensor features go through float32, and scalars lose their type, unless they are encoded as bytes.
* Its parquet writer drops every other hundred of a shard's examples, because it slices an iterator by
  absolute position. Shards of at most a hundred examples come out whole.
* It prints, logs and draws progress bars.
"""

import contextlib
import difflib
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.embedded import EMBEDDED
from tasks.errors import DataUnavailable, InputError

Arrays = Mapping[str, np.ndarray]
"""The fields of one split: {field: array of shape (N, ...)}; texts are an array (N,) of bytes objects."""

_CHUNK = 4096  # examples decoded at a time; bounds the memory that Python objects take


class Stored(NamedTuple):
    """A prepared data set that is read split by split, or example by example."""

    name: str
    builder: Any  # of TFDS
    file_format: str
    features: Mapping[str, Any]  # those of TFDS that `read_split` returns

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples of each split."""
        return {str(split): info.num_examples for split, info in self.builder.info.splits.items()}

    @property
    def classes(self) -> int | None:
        """The number of values of the field "label"; None where there is none, or no bound is known."""
        return getattr(self.features.get("label"), "num_classes", None)

    @property
    def is_text(self) -> bool:
        """Whether it holds texts; their other fields are left out."""
        return any(is_text(feature) for feature in self.features.values())

    def values(self, split: str) -> int:
        """How many numbers, or bytes of text, a split holds; of text an upper bound."""
        if self.is_text:
            return self.builder.info.splits[split].num_bytes
        per_example = sum(math.prod(feature.shape) for feature in self.features.values())
        return self.sizes[split] * per_example


class Prepared(NamedTuple):
    """A data set as read from disk."""

    splits: Mapping[str, Arrays]
    classes: int | None  # see `Stored.classes`


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of prepared data sets: `data_dir`, else TFDS_DATA_DIR, else TFDS's ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def is_prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether some version of a set without configurations is complete on disk; looks at the files only."""
    return any(complete(folder) for folder in (data_directory(data_dir) / name).glob("[0-9]*"))


def read(name: str, data_dir: str | os.PathLike[str] | None = None) -> Prepared:
    """Read all splits of a prepared data set; arguments and errors are those of `find` and `read_split`."""
    stored = find(name, data_dir)
    return Prepared({split: read_split(stored, split) for split in stored.sizes}, stored.classes)


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> Stored:
    """Find a prepared data set: every field of numbers with one shape per example.

    A set without such fields other than "label", but with texts, is a set of texts: its field "text", or else its
    first one.

    Args:
      name: a TFDS name: `mnist`, `name/config`, `name:1.0.0`; the newest version on disk where none is given.
      data_dir: see `data_directory`.

    Raises:
      InputError: for an unknown name, or a set with nothing to read in it.
      DataUnavailable: for a known set that is not prepared, is damaged, or is in a format that needs
        TensorFlow.
    """
    root = data_directory(data_dir)
    builder = find_builder(name, root)
    if not complete(Path(builder.data_path)):
        raise DataUnavailable(
            f"data set {name!r} is not prepared in {root}: run `learned-opt tasks prepare {name} --data-dir {root}` "
            f"where there is a network and tensorflow (pip install 'learned-opt[data]'), or set TFDS_DATA_DIR to the "
            f"folder that holds it"
        )
    formats = sorted(str(f.value) for f in builder.info.available_file_formats())
    usable = [f for f in formats if f in ("array_record", "parquet")]
    if not usable:
        raise DataUnavailable(
            f"data set {name!r} in {root} is stored as {', '.join(formats)}, which only TensorFlow reads: "
            f"run `tfds build {name} --file_format=array_record --data_dir={root} --overwrite`"
        )
    features = {f: feature for f, feature in builder.info.features.items() if _is_array(feature)}
    texts = [f for f, feature in builder.info.features.items() if is_text(feature)]
    if texts and not features.keys() - {"label"}:
        first = "text" if "text" in texts else texts[0]
        features = {first: builder.info.features[first]}
    if not features:
        found = ", ".join(builder.info.features)
        raise InputError(f"data set {name!r}: expected a field of numbers of one shape, or of text, found {found}")
    return Stored(name, builder, usable[0], features)


def read_split(stored: Stored, split: str) -> Arrays:
    """All examples of a split: {field: array}.

    Raises:
      DataUnavailable: for a set that is damaged, or that cannot be decoded here.
    """
    return read_rows(stored, source(stored, split), range(stored.sizes[split]))


def source(stored: Stored, split: str) -> Any:
    """Random access to the examples of a split, for `read_rows`; errors as in `read_split`."""
    with _explained(stored):
        examples = stored.builder.as_data_source(split, file_format=stored.file_format)
        if len(examples) != stored.sizes[split]:
            raise ValueError(f"{len(examples)} examples where its metadata say {stored.sizes[split]}")
        return examples


def read_rows(stored: Stored, examples: Any, rows: Sequence[int] | np.ndarray) -> Arrays:
    """Some examples of a `source`, in the order of `rows`: {field: array}; errors as in `read_split`."""
    columns: dict[str, list[np.ndarray]] = {field: [] for field in stored.features}
    with _explained(stored):
        for start in range(0, len(rows), _CHUNK):
            chunk = examples.__getitems__([int(row) for row in rows[start : start + _CHUNK]])
            for field, column in columns.items():
                column.append(_stack([example[field] for example in chunk]))
    return {field: np.concatenate(column) for field, column in columns.items()}


def complete(folder: Path) -> bool:
    """Whether the folder of a version holds a whole data set: TFDS gives it its name when all is written."""
    return (folder / "dataset_info.json").is_file()


def first_line(error: BaseException) -> str:
    """What fits into a one-line message of a library's error."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what TFDS prints; what matters comes back as an exception."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def find_builder(name: str, root: Path) -> Any:
    """The TFDS builder of the files under `root` if there are any, else of TFDS's catalogue; errors as in `find`."""
    if not re.fullmatch(r"\w+(/[\w.\-]+)?(:[\d.*]+)?", name):
        raise InputError(f"data set {name!r}: expected a name such as mnist, name/config or name:1.0.0")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    # Given a version, even any, TFDS looks at the files before its own code, which knows one version only.
    query = name if ":" in name else f"{name}:*.*.*"
    try:
        with quiet():
            return tfds.builder(query, data_dir=os.fspath(root))
    except DatasetNotFoundError as error:
        here = [folder.name for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
        if name in here:
            raise DataUnavailable(
                f"data set {name!r} in {root} is damaged ({first_line(error)}): "
                f"remove {root / name} and prepare it again"
            ) from error
        known = {*tfds.list_builders(with_community_datasets=False), *EMBEDDED, *here} - {"downloads"}
        near = difflib.get_close_matches(re.split("[/:]", name)[0], sorted(known), n=3)
        raise InputError(
            f"unknown data set {name!r}: expected an embedded one, one of TFDS's, or one in {root}; "
            f"{'nearest names' if near else 'embedded are'}: {', '.join(near or sorted(EMBEDDED))}"
        ) from error
    except Exception as error:  # a configuration or version that does not exist, or damaged metadata
        raise InputError(f"data set {name!r} in {root}: {first_line(error)}") from error


@contextlib.contextmanager
def _explained(stored: Stored) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DataUnavailable(
            f"data set {stored.name!r} cannot be decoded ({first_line(error)}): run `pip install 'learned-opt[data]'`"
        ) from error
    except Exception as error:  # whatever a damaged file makes the decoders raise
        raise DataUnavailable(
            f"data set {stored.name!r} cannot be read ({first_line(error)}): "
            f"remove {stored.builder.data_path} and prepare it again"
        ) from error


def _stack(values: list[Any]) -> np.ndarray:
    if not isinstance(values[0], bytes):
        return np.stack(values)
    column = np.empty(len(values), dtype=object)  # np.array would drop null bytes at the end of a text
    column[:] = values
    return column


def is_text(feature: Any) -> bool:
    """Whether a TFDS feature is text."""
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.Text)


def _is_array(feature: Any) -> bool:
    shape = feature.shape
    fixed = isinstance(shape, tuple) and all(axis is not None for axis in shape)
    return fixed and np.dtype(feature.np_dtype).kind in "biuf"
