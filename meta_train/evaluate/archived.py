"""What an archive of results holds for an evaluation; `archive` writes them, `reuse` takes them.

A task is taken from an archive only if everything its numbers depend on is equal: the steps and trials, what the
optimizer computes, the versions of jax and optax, the fingerprint of the task (its settings, the shapes of its
parameters, its data), and, for what a fingerprint cannot see, two losses of each seed: the validation loss of its
initialisation, and the training loss of its first batch.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from learned_opt.errors import InputError
from meta_train.evaluate import store
from meta_train.evaluate.budget import BUDGETS, SCHEDULES
from meta_train.evaluate.store import Row
from tasks.task import Task

FORMAT = "learned_opt_evaluation/2"
NUMBERS = ("mean_train_loss", "first_train_loss", "final_train_loss", "final_valid_loss", "diverged_at")
"""Fields of a row that are archived; the others follow."""
TOLERANCE = 1e-3
"""Relative difference allowed between losses before training, for other devices."""


class Archived(NamedTuple):
    """The archived results of one baseline."""

    path: Path
    """The file."""
    content: Mapping[str, Any]
    """What it says, as far as anyone has looked."""


class Start(NamedTuple):
    """Losses that show what the seeds of a task start from."""

    initial: Float[np.ndarray, " seeds"]
    """Validation loss before training."""
    first: Float[np.ndarray, " seeds"]
    """Training loss of the first batch, before its update."""


@dataclass(frozen=True)
class Group:
    """All runs of one optimizer on one task."""

    rows: list[Row]
    """As in results.jsonl."""
    curves: dict[str, np.ndarray]
    """As in curves/TASK/NAME.npz; NaN for trials whose curves are not kept."""


def folder() -> Path:
    """The archive that comes with the package."""
    return Path(str(resources.files("meta_train.evaluate"))) / "archive"


def fingerprint(task: Task) -> str:
    """SHA-256 of the settings of a task, the shapes of its variables and the CRC-32 of its arrays."""
    leaves, structure = jax.tree.flatten(task)
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), jax.eval_shape(task.init, jax.random.key(0)))
    arrays = [f"{x.dtype}{x.shape}{zlib.crc32(np.ascontiguousarray(x).tobytes())}" for x in map(np.asarray, leaves)]
    settings = re.sub(r" at 0x[0-9a-f]+", "", str(structure))  # functions print where they are
    return sha256("\n".join([task.name, settings, str(shapes), *arrays]).encode()).hexdigest()


def read(root: Path, suite: str, optimizer: str) -> Archived | None:
    """The archived results of a baseline; None if there are none.

    Raises:
      InputError: the file is damaged.
    """
    path = root / suite / f"{optimizer}.json.gz"
    if not path.exists():
        return None
    with _whole(path):
        content = json.loads(gzip.decompress(path.read_bytes()))
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__}, expected an object")
        return Archived(path, content)


def mismatch(archived: Archived, configuration: Mapping[str, Any], optimizer: str) -> str | None:
    """Why archived results are not of this evaluation, in a few words; None if they are; errors as in `read`."""
    there = archived.content
    if there.get("format") != FORMAT:
        return f"of format {there.get('format')}, expected {FORMAT}"
    with _whole(archived.path):
        for field in ("steps", "seed"):
            if there[field] != configuration[field]:
                return f"of {field} {there[field]}, asked {configuration[field]}"
        if there["seeds"] < configuration["seeds"]:
            return f"of {there['seeds']} seeds, asked {configuration['seeds']}"
        for package in ("jax", "optax"):
            version, here = there["versions"][package], configuration["versions"][package]
            if version != here:
                return f"of {package} {version}, here is {here}"
        trials = configuration["optimizers"][optimizer]["trials"]
        if len(trials) not in BUDGETS:
            return f"for {', '.join(map(str, BUDGETS))} trials, asked {len(trials)}"
        if there["trials"][: len(trials)] != trials:
            return "of other trials"
        if there["program_sha256"] != configuration["optimizers"][optimizer]["program_sha256"]:
            return "of an optimizer that computes something else"
    return None


def difference(archived: Archived, task: str, task_fingerprint: str, start: Start) -> str | None:
    """What tells a task from the archived one of that name, for a configuration without `mismatch`; None: nothing.

    Args:
      archived: of `read`.
      task: its name.
      task_fingerprint: its `fingerprint`.
      start: what its seeds start from.
    """
    with _whole(archived.path):
        entry = archived.content["tasks"].get(task)
        if entry is None:
            return "not in the archive"
        if entry["fingerprint"] != task_fingerprint:
            return "data or settings are not those of the archive"
        initial = _numbers(entry["curves"]["valid_loss"])[0, :, 0]
        seeds = len(start.initial)
        if not _close(initial[:seeds], start.initial):
            return "initial losses are not those of the archive"
        if not _close(_numbers(entry["first_train_loss"])[:, :seeds], start.first[None]):
            return "first training losses are not those of the archive"
    return None


def take(archived: Archived, task: str, trials: int, seeds: int) -> Group:
    """The first trials and seeds on a task, where there is neither `mismatch` nor `difference`; errors as in `read`."""
    with _whole(archived.path):
        return _group(archived.content, task, trials, seeds)


def _group(there: Mapping[str, Any], task: str, trials: int, seeds: int) -> Group:
    entry, made = there["tasks"][task], there["seeds"]
    curves, rows = entry["curves"], []
    for field in NUMBERS:
        if _numbers(entry[field]).shape != (len(there["trials"]), made):
            raise ValueError(f"{task}, {field}: expected a number for each trial and seed")
    for trial, settings in enumerate(there["trials"][:trials]):
        for seed in range(seeds):
            numbers = {field: entry[field][trial][seed] for field in NUMBERS}
            rows.append(
                {
                    "task": task,
                    "optimizer": there["optimizer"],
                    "kind": "baseline",
                    "trial": trial,
                    **settings,
                    "schedule": SCHEDULES[settings["schedule"]],
                    "seed": seed,
                    "steps": curves["valid_step"][-1],  # of `tasks.longer` a multiple of the evaluation's
                    **numbers,
                    "diverged": store.diverged(*(numbers[field] for field in NUMBERS[1:])),
                    "seconds": entry["seconds"],
                    "source": "archive",
                }
            )
    arrays: dict[str, np.ndarray] = {name: np.array(curves[name], np.int32) for name in ("step", "valid_step")}
    for name, when in (("loss", "step"), ("valid_loss", "valid_step")):
        known = _numbers(curves[name]).astype(np.float32)
        if known.shape[1:] != (made, len(arrays[when])):
            raise ValueError(f"{task}, curves of {name}: expected a number for each seed and moment")
        arrays[name] = np.full((trials, seeds, known.shape[2]), np.nan, np.float32)
        for trial, values in zip(curves["trial"], known, strict=True):
            if trial < trials:
                arrays[name][trial] = values[:seeds]
    scalars = {name: np.array(entry[name], float) for name in ("compile_seconds", "state_bytes", "param_bytes")}
    return Group(rows, arrays | scalars)


def _numbers(values: Any) -> np.ndarray:
    """Nested lists of numbers and None as an array; None is NaN. ValueError or TypeError for anything else."""
    return np.array(values, float)


def _close(there: np.ndarray, here: np.ndarray) -> bool:
    """Whether losses agree; one that is not finite has no digits."""
    finite = np.where(np.isfinite(here), here, np.nan)
    return bool(np.isclose(there, finite, rtol=TOLERANCE, equal_nan=True).all())


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes Python raise, in one line that names it."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, zlib.error) as error:
        raise InputError(
            f"archive: {path} is damaged ({type(error).__name__}: {' '.join(str(error).split())}); restore or remove "
            "it, or train the baselines by --rerun-baselines"
        ) from error
