"""`learned-opt tasks`: data sets are prepared, and made from a user's files. Parsed before JAX is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from tasks.errors import InputError


@dataclass(frozen=True)
class PrepareArgs:
    """Write an embedded data set to disk, or download and write one of TFDS."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Embedded, or of TFDS: mnist, name/config, name:1.0.0. TFDS's need a network and learned-opt[data]."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of data sets; TFDS_DATA_DIR, else ~/tensorflow_datasets, by default."""


@dataclass(frozen=True)
class ImportArgs:
    """Make a data set from arrays (.npz) or a text (.txt).

    Arrays are named split_field or split/field: train_x, train_y, test_x, test_y; without a split, a fifth is held out.
    x of images becomes image, other x is standardised by the training split; y of whole numbers becomes label, other y
    is standardised.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The arrays or the text."""
    name: str
    """Name to load it by: lower case letters, digits and underscores."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of data sets; TFDS_DATA_DIR, else ~/tensorflow_datasets, by default."""
    fields: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD ...")] = ()
    """Fields to take of the arrays; all by default."""


def tasks_command(argv: Sequence[str]) -> int:
    """`learned-opt tasks prepare` and `learned-opt tasks import`; returns the exit status.

    Raises:
      InputError: for bad arguments, and for data that do not fit or cannot be had.
    """
    from meta_train.cli import PROGRAM

    if not argv or argv[0] in ("-h", "--help"):
        print(
            f"usage: {PROGRAM} tasks ACTION [options]\n\nactions:\n"
            f"  prepare NAME              write an embedded data set, or download one of TFDS\n"
            f"  import FILE --name NAME   make a data set from arrays (.npz) or a text (.txt)\n\n"
            f"{PROGRAM} tasks ACTION --help shows its options."
        )
        return 0 if argv else 2
    actions = {"prepare": _prepare, "import": _import}
    if argv[0] not in actions:
        raise InputError(f"tasks {argv[0]!r}: expected one of {', '.join(actions)}; see `{PROGRAM} tasks --help`")
    return actions[argv[0]](argv[1:])


def _prepare(argv: Sequence[str]) -> int:
    from meta_train.cli import _parse

    args = _parse(PrepareArgs, argv, command="tasks prepare")
    from tasks.preparing import prepare

    folder = prepare(args.name, args.data_dir)
    _report(args.name, args.data_dir, folder)
    return 0


def _import(argv: Sequence[str]) -> int:
    from meta_train.cli import _parse

    args = _parse(ImportArgs, argv, command="tasks import")
    from tasks.embedded import EMBEDDED
    from tasks.files import read_file
    from tasks.importing import import_arrays

    if args.name in EMBEDDED:
        raise InputError(f"--name {args.name}: that is a set which comes with the package, expected another name")
    folder = import_arrays(args.name, read_file(args.file, args.fields), args.data_dir)
    _report(args.name, args.data_dir, folder)
    return 0


def _report(name: str, data_dir: Path | None, folder: Path) -> None:
    from tasks import storage

    stored = storage.find(name, data_dir)
    for split, size in stored.sizes.items():
        fields = ", ".join(f"{field} {_shape(feature)}" for field, feature in sorted(stored.features.items()))
        print(f"{split}: {size} x {fields}")
    if "y" in stored.features:
        print("y is a target of regression; classes would be whole numbers from 0")
    arguments = repr(name) if data_dir is None else f"{name!r}, {str(data_dir)!r}"
    print(f"{folder}\ntasks.data.load({arguments})")


def _shape(feature: Any) -> str:
    dtype = np.dtype(feature.np_dtype)
    return "(bytes)" if dtype.kind == "O" else f"{dtype} {feature.shape}"
