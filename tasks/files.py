"""A user's files as the arrays of a data set."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tasks.embedded.splits import Splits, split_text, standardise
from tasks.errors import InputError

CLASSES = 100_000
"""More classes than that are taken for a mistake: a class is a row of the trained model."""

_SPLITS = {"train": "train", "valid": "valid", "validation": "validation", "val": "valid", "test": "test"}


def read_file(path: str | os.PathLike[str], fields: tuple[str, ...] = ()) -> Splits:
    """The splits in a file of arrays (.npz) or of text (.txt), as `tasks.importing.import_arrays` takes them.

    The arrays of a .npz are named split/field or split_field, where the split is train, valid, validation, val or
    test; if no name begins so, all are fields of one split, train. Four names have a meaning to the tasks:

    * x with three axes or more becomes image, and grey images (N, H, W) get a channel axis.
    * x with two axes becomes float32 and is standardised by the training split.
    * y, whole numbers from 0, one per example, becomes label; so do booleans.
    * any other y becomes float32 and is standardised by the training split.

    A text becomes the field text of the splits train and valid, the last fifth.

    Args:
      path: the file.
      fields: those to take of a .npz; all if empty.

    Raises:
      InputError: for a file that cannot be read, or arrays that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        found = "a directory" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {found}, expected arrays (.npz) or a text (.txt)")
    if path.suffix == ".npz":
        return _name_fields(path, _by_split(path, fields))
    if path.suffix != ".txt":
        raise InputError(f"{path}: expected arrays (.npz) or a text (.txt)")
    if fields:
        raise InputError(f"{path}: a text has no fields, expected no --fields")
    text = path.read_bytes()
    if len(text) < 2:
        raise InputError(f"{path}: a text of {len(text)} bytes, expected two at least")
    return split_text(text)


def _by_split(path: Path, fields: tuple[str, ...]) -> Splits:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} cannot be read as arrays: it is no .npz file, expected what numpy.savez writes")
    try:
        with path.open("rb") as file, np.load(file) as archive:
            places = {key: _place(key) for key in archive.files}
            if all(split is None for split, _ in places.values()):
                places = {key: ("train", key) for key in places}
            strange = [key for key, (split, _) in places.items() if split is None]
            if strange:
                raise InputError(f"{path}: array {strange[0]!r}: expected train_, valid_ or test_ before each name")
            known = {field for _, field in places.values()}
            if missing := [field for field in fields if field not in known]:
                raise InputError(f"{path}: no field {missing[0]!r}, expected some of {', '.join(sorted(known))}")
            _check_spellings(path, places)
            splits: Splits = {}
            for key, (split, field) in places.items():
                if split is not None and (not fields or field in fields):
                    splits.setdefault(split, {})[field] = _numbers(path, key, archive[key])
    except InputError:
        raise
    except (OSError, ValueError, EOFError, TypeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as arrays: {' '.join(str(error).split())}") from error
    if "train" not in splits:
        raise InputError(f"{path}: expected a split train, found {', '.join(splits) or 'no array'}")
    return splits


def _check_spellings(path: Path, places: Mapping[str, tuple[str | None, str]]) -> None:
    """Refuse two names for one thing: of the arrays of one field only the last would be read."""
    seen: dict[tuple[str | None, str], str] = {}
    for key, (split, field) in places.items():
        place = ("valid" if split == "validation" else split, field)
        if place in seen:
            raise InputError(
                f"{path}: arrays {seen[place]!r} and {key!r} are both field {field!r} of split {place[0]!r}, expected "
                "one of them: rename or remove the other"
            )
        seen[place] = key
    held = {place[0] for place in places.values()} & {"valid", "validation"}
    if len(held) > 1:
        raise InputError(f"{path}: arrays of both splits valid and validation, expected one: rename those of one")


def _numbers(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise InputError(
            f"{path}: array {key!r} is {array.dtype} of shape {array.shape}, expected numbers of shape (N, ...): "
            f"name the fields to take by --fields"
        )
    if len(array) == 0:
        raise InputError(f"{path}: array {key!r} is empty, expected one example at least")
    return array


def _place(key: str) -> tuple[str | None, str]:
    """The split and field that the name of an array stands for."""
    separator = "/" if "/" in key else "_"
    split, _, field = key.partition(separator)
    return (_SPLITS[split], field) if split in _SPLITS and field else (None, key)


def _name_fields(path: Path, splits: Splits) -> Splits:
    named = {split: dict(arrays) for split, arrays in splits.items()}
    train = splits["train"]
    for split, arrays in splits.items():
        if odd := sorted(arrays.keys() ^ train.keys()):
            there, lacks = (split, "train") if odd[0] in arrays else ("train", split)
            raise InputError(
                f"{path}: field {odd[0]!r} is in split {there} and not in {lacks}, expected the same fields in all "
                "splits: add it, remove it, or name the fields to take by --fields"
            )
    x, y = train.get("x"), train.get("y")
    if x is not None and x.ndim >= 3:
        for arrays in named.values():
            arrays["image"] = arrays.pop("x")
    whole = [arrays["y"] for arrays in splits.values() if "y" in arrays]
    if y is not None and all(a.ndim == 1 and a.dtype.kind in "biu" and (a >= 0).all() for a in whole):
        for arrays in named.values():
            arrays["label"] = arrays.pop("y").astype(np.int64)
        largest = max(int(arrays["label"].max()) for arrays in named.values())
        if largest >= CLASSES:
            raise InputError(f"{path}: labels up to {largest}, expected classes from 0, fewer than {CLASSES:,}")
    for arrays in named.values():
        if "image" in arrays:
            arrays["image"] = _image(path, arrays["image"])
        if "image" in arrays and arrays["image"].ndim == 3:
            arrays["image"] = arrays["image"][..., None]
    numbers = [field for field in ("x", "y") if field in named["train"]]
    for field in numbers:
        for split, arrays in named.items():
            if not np.isfinite(arrays[field]).all():
                raise InputError(f"{path}: field {field!r} of split {split!r} holds values that are not finite")
    return standardise(named, *numbers)


def _image(path: Path, x: np.ndarray) -> np.ndarray:
    """Pixels as bytes, or as the floats that they are; truth values as black and white."""
    if x.ndim > 4:
        raise InputError(f"{path}: images of shape {x.shape}, expected (N, H, W) or (N, H, W, C)")
    if x.dtype.kind == "b":
        return x.astype(np.uint8) * np.uint8(255)
    if x.dtype.kind in "iu":
        if x.min() < 0 or x.max() > 255:
            raise InputError(
                f"{path}: pixels from {x.min()} to {x.max()}, expected whole numbers of 0 to 255 or floats"
            )
        return x.astype(np.uint8)
    return x
