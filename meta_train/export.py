"""From a finished run, or from weights that another project published, to a released checkpoint."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learned_opt import published
from learned_opt.errors import InputError
from learned_opt.pretrained import CARD, CARD_FIELDS, WEIGHTS, load_pretrained, released_folder, save_pretrained
from meta_train import run_directory
from meta_train.evaluate.contenders import fingerprint

NOT_STATED = "not stated by the file"


def export(run: Path, name: str, destination: Path | None = None, evaluation: Path | None = None) -> Path:
    """Copy the weights and the card of a finished run to `destination`/`name`; all of it or nothing.

    Args:
      run: run directory.
      name: lower-case letters, digits, "_", "-" and "."; the name users load the weights by.
      destination: the project's checkpoints by default.
      evaluation: output of `learned-opt evaluate` with these weights among the optimizers; its figures for them go
        into the card.

    Returns:
      The new directory.

    Raises:
      InputError: no such run, not finished, a bad name, a name that is taken, or an evaluation of other weights.
      WeightsError: the weights are damaged.
    """
    target = _target(name, destination)
    if run.is_file():
        raise InputError(f"{run} is a file, expected a run: for weights of another project add --layout, see --help")
    steps = run_directory.read_config(run).steps
    _require_free(target)
    done = outer_steps(run)
    if done != steps:
        raise InputError(
            f"{run} has weights of {done or 0} of {steps} outer steps; repeat its `learned-opt meta-train` to finish it"
        )
    card = load_pretrained(run).card
    if evaluation is not None:
        card["results"] |= {"evaluation": _figures(evaluation, fingerprint(load_pretrained(run).theta))}

    def write(staged: Path) -> None:
        staged.mkdir()
        shutil.copyfile(run / WEIGHTS, staged / WEIGHTS)
        (staged / CARD).write_text(json.dumps(card, indent=2) + "\n")

    return _release(target, write)


def export_published(
    path: Path,
    layout: str,
    name: str,
    destination: Path | None = None,
    evaluation: Path | None = None,
    *,
    licence: str = "unknown",
    rule: str | None = None,
) -> Path:
    """Make a release of weights that another project published; all of it or nothing.

    Args:
      path: the file or folder, see `learned_opt.read_published`.
      layout: as there.
      name: as in `export`.
      destination: as in `export`.
      evaluation: as in `export`.
      licence: of the weights, as their authors state it; it goes into the card.
      rule: as in `learned_opt.read_published`.

    Returns:
      The new directory. Its card names the layout, the file and its sha256; of several files the names joined by
      " + ", and the sha256 of one after the other.

    Raises:
      InputError: unknown layout or rule, a bad name, a name that is taken, or an evaluation of other weights.
      WeightsError: the file is missing, damaged, or of another layout.
    """
    target = _target(name, destination)
    _require_free(target)
    made, theta = published.read_published(path, layout, rule=rule)
    files = published.published_files(path, layout)
    source = {
        "layout": layout,
        "file": " + ".join(str(file.relative_to(path)) if file != path else file.name for file in files),
        "sha256": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest(),
    }
    card: dict[str, Any] = dict.fromkeys(CARD_FIELDS, NOT_STATED)
    card |= {"recipe": {"published": source}, "results": {"meta_training": NOT_STATED}}
    if evaluation is not None:
        card["results"] |= {"evaluation": _figures(evaluation, fingerprint(theta))}
    return _release(target, lambda staged: save_pretrained(staged, made, theta, card, licence))


def _target(name: str, destination: Path | None) -> Path:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise InputError(
            f"name {name!r}: expected lower-case letters, digits, '_', '-' and '.', such as small-fc-digits"
        )
    return (destination or released_folder()) / name


def _require_free(target: Path) -> None:
    if target.exists():
        raise InputError(
            f"name {target.name!r}: {target} exists, and releases are not overwritten; choose another --name"
        )


def _release(target: Path, write: Callable[[Path], Any]) -> Path:
    """`write` a folder beside its place, then move it there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target.parent} cannot be written ({error.strerror}): choose another --dest") from error
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as partial:
        staged = Path(partial) / target.name
        write(staged)
        os.replace(staged, target)
    return target


def _figures(evaluation: Path, weights: str | None) -> dict[str, Any]:
    """What an evaluation measured for the optimizer with these weights, per task."""
    try:
        summary = json.loads((evaluation / "summary.json").read_text())
        configuration, per_task = summary["configuration"], summary["per_task"]
        names = [n for n, made in configuration["optimizers"].items() if weights and made["theta_sha256"] == weights]
        wanted = ("mean_train_loss", "final_train_loss", "final_valid_loss", "diverged", "comparison")
        figures = [
            {task: {field: row[name][field] for field in wanted} for task, row in per_task.items()} for name in names
        ]
        head = {field: configuration[field] for field in ("suite", "steps", "seeds", "versions")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"evaluation {evaluation}: no readable summary.json ({type(error).__name__}: {error}); "
            "make it with `learned-opt evaluate`"
        ) from error
    if not figures:
        found = ", ".join(configuration["optimizers"])
        raise InputError(f"evaluation {evaluation} is of {found}: expected one with the weights of this run among them")
    return head | {"tasks": figures[0]}


def outer_steps(run: Path) -> int | None:
    """Outer steps behind the weights of a run, None if it has none yet.

    Raises:
      WeightsError: they are damaged.
    """
    if not all((run / file).exists() for file in (WEIGHTS, CARD)):
        return None
    return load_pretrained(run).card["recipe"]["outer_steps"]
