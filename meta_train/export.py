"""From a finished run to a released checkpoint."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from learned_opt.errors import InputError
from learned_opt.pretrained import CARD, WEIGHTS, load_pretrained, released_folder
from meta_train import run_directory


def export(run: Path, name: str, destination: Path | None = None) -> Path:
    """Copy the weights and the card of a finished run to `destination`/`name`; all of it or nothing.

    Args:
      run: run directory.
      name: lower-case letters, digits, "_", "-" and "."; the name users load the weights by.
      destination: the project's checkpoints by default.

    Returns:
      The new directory.

    Raises:
      InputError: no such run, not finished, a bad name, or a name that is taken.
      WeightsError: the weights are damaged.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise InputError(
            f"name {name!r}: expected lower-case letters, digits, '_', '-' and '.', such as small-fc-digits"
        )
    steps = run_directory.read_config(run).steps
    target = (destination or released_folder()) / name
    if target.exists():
        raise InputError(f"name {name!r}: {target} exists, and releases are not overwritten; choose another --name")
    done = outer_steps(run)
    if done != steps:
        raise InputError(
            f"{run} has weights of {done or 0} of {steps} outer steps; repeat its `learned-opt meta-train` to finish it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as partial:
        staged = Path(partial) / name
        staged.mkdir()
        for file in (WEIGHTS, CARD):
            shutil.copyfile(run / file, staged / file)
        os.replace(staged, target)
    return target


def outer_steps(run: Path) -> int | None:
    """Outer steps behind the weights of a run, None if it has none yet.

    Raises:
      WeightsError: they are damaged.
    """
    if not all((run / file).exists() for file in (WEIGHTS, CARD)):
        return None
    return load_pretrained(run).card["recipe"]["outer_steps"]
