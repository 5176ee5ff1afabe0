"""Archived results of baselines: judging one more optimizer need not train thirty others again.

    archive/SUITE/OPTIMIZER.json.gz   all trials of one baseline on the tasks of a suite

Rows are exact to six digits; curves are coarser, and there only for the trials that are best at a named budget. A
task is taken from the archive only if everything its numbers depend on is equal: the steps, seeds and trials, what
the optimizer computes, the versions of jax and optax, the fingerprint of the task (its settings, the shapes of its
parameters, its data), and, for what a fingerprint cannot see, the losses of its initialisations. Otherwise that task
is run.

    python -m meta_train.evaluate.archive DIR [--out FOLDER]

writes the baselines of a finished evaluation in DIR to the folder, by default that of the package.
"""

import gzip
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jaxtyping import Float

from learned_opt.errors import InputError
from meta_train.evaluate import store
from meta_train.evaluate.budget import BUDGETS, SCHEDULES
from meta_train.evaluate.statistics import student_t
from meta_train.evaluate.store import Row
from tasks.task import Task

FORMAT = "learned_opt_evaluation/1"
MEASURES = ("mean_train_loss", "final_train_loss", "final_valid_loss")
"""What a trial may be chosen by; the curves of all these choices are kept."""
NUMBERS = ("mean_train_loss", "first_train_loss", "final_train_loss", "final_valid_loss", "diverged_at")
"""Fields of a row that are archived; the others follow."""
DIGITS = 6
"""Digits of an archived number."""
POINTS = 100
"""Points of an archived curve at most."""
TOLERANCE = 1e-3
"""Relative difference allowed between initial losses, for other devices."""


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


def read(root: Path, suite: str, optimizer: str) -> dict[str, Any] | None:
    """The archived results of a baseline; None if there are none or they cannot be read."""
    try:
        archived = json.loads(gzip.decompress((root / suite / f"{optimizer}.json.gz").read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return archived if isinstance(archived, dict) and archived.get("format") == FORMAT else None


def mismatch(archived: Mapping[str, Any], configuration: Mapping[str, Any], optimizer: str) -> str | None:
    """Why archived results are not of this evaluation, in a few words; None if they are."""
    for field in ("steps", "seeds", "seed"):
        if archived[field] != configuration[field]:
            return f"{field} {archived[field]}, asked {configuration[field]}"
    for package in ("jax", "optax"):
        there, here = archived["versions"][package], configuration["versions"][package]
        if there != here:
            return f"of {package} {there}, here is {here}"
    trials = configuration["optimizers"][optimizer]["trials"]
    if len(trials) not in BUDGETS:
        return f"for {', '.join(map(str, BUDGETS))} trials, asked {len(trials)}"
    if archived["trials"][: len(trials)] != trials:
        return "of other trials"
    if archived["program_sha256"] != configuration["optimizers"][optimizer]["program_sha256"]:
        return "of an optimizer that computes something else"
    return None


def take(
    archived: Mapping[str, Any], task: str, trials: int, task_fingerprint: str, initial: Float[np.ndarray, " seeds"]
) -> Group | None:
    """The first `trials` trials on a task, for a configuration without `mismatch`; None if the task differs.

    Args:
      archived: of `read`.
      task: its name.
      trials: how many.
      task_fingerprint: what its `fingerprint` must be.
      initial: validation losses of the initialisations, which must be those of the archive.
    """
    entry = archived["tasks"].get(task)
    if entry is None or entry["fingerprint"] != task_fingerprint:
        return None
    curves = entry["curves"]
    before = np.array(_floats(curves["valid_loss"]))[0, :, 0]
    if not np.allclose(before, initial, rtol=TOLERANCE, equal_nan=True):
        return None
    rows = []
    for trial, settings in enumerate(archived["trials"][:trials]):
        for seed in range(archived["seeds"]):
            numbers = {field: entry[field][trial][seed] for field in NUMBERS}
            rows.append(
                {
                    "task": task,
                    "optimizer": archived["optimizer"],
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
    for name in ("loss", "valid_loss"):
        known = np.array(_floats(curves[name]), np.float32)
        arrays[name] = np.full((trials, *known.shape[1:]), np.nan, np.float32)
        for trial, values in zip(curves["trial"], known, strict=True):
            if trial < trials:
                arrays[name][trial] = values
    scalars = {name: np.array(entry[name]) for name in ("compile_seconds", "state_bytes", "param_bytes")}
    return Group(rows, arrays | scalars)


def write(evaluation: Path, root: Path) -> list[Path]:
    """Archive the baselines of a finished evaluation; returns the files.

    Raises:
      InputError: the directory holds no evaluation with a complete baseline.
    """
    try:
        configuration = json.loads((evaluation / "evaluation.json").read_text())
        runs = store.expected_runs(configuration)
        groups = store.complete_groups(evaluation, runs)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{evaluation}: no readable evaluation ({error}); make one with `learned-opt evaluate`"
        ) from error
    written = []
    for name, identity in configuration["optimizers"].items():
        tasks = [task for task, optimizer in groups if optimizer == name]
        if identity["kind"] != "baseline" or len(tasks) < len(configuration["tasks"]):
            continue
        archived = {
            "format": FORMAT,
            "optimizer": name,
            **{field: configuration[field] for field in ("suite", "steps", "seeds", "seed", "versions")},
            "trials": identity["trials"],
            "program_sha256": identity["program_sha256"],
            "tasks": {
                task: {
                    "fingerprint": configuration["fingerprints"][task],
                    **_columns(groups[task, name], configuration["seeds"]),
                    **_curves(evaluation, groups[task, name]),
                }
                for task in tasks
            },
        }
        path = root / configuration["suite"] / f"{name}.json.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(archived, separators=(",", ":"), allow_nan=False)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))  # equal results, equal bytes
        written.append(path)
    if not written:
        raise InputError(f"{evaluation}: no baseline is complete there; repeat the command that made it")
    return written


def chosen(rows: Sequence[Row]) -> list[int]:
    """Trials that are best at a named budget by one of `MEASURES`: fewest diverged seeds, then the lowest mean.

    Of the losses as they will be read back, or a tie that rounding makes would be decided otherwise there, for a trial
    without curves.
    """
    trials = [[row for row in rows if row["trial"] == i] for i in range(rows[-1]["trial"] + 1)]

    def rank(trial: int, measure: str) -> tuple[int, float]:
        finished = [_digits(row[measure], DIGITS) for row in trials[trial] if not row["diverged"]]
        mean = student_t(finished).mean
        return len(trials[trial]) - len(finished), np.inf if mean is None else mean

    return sorted({min(range(min(n, len(trials))), key=lambda i: rank(i, m)) for n in BUDGETS for m in MEASURES})


def _columns(rows: Sequence[Row], seeds: int) -> dict[str, Any]:
    """Of each field, values [trial][seed]."""
    round_ = lambda x: x if x is None or isinstance(x, int) else _digits(x, DIGITS)
    columns = {field: [round_(row[field]) for row in rows] for field in NUMBERS}
    table = {field: [values[i : i + seeds] for i in range(0, len(values), seeds)] for field, values in columns.items()}
    return table | {"seconds": _digits(rows[0]["seconds"], 3)}


def _curves(evaluation: Path, rows: Sequence[Row]) -> dict[str, Any]:
    arrays = store.read_curves(evaluation, rows[0]["task"], rows[0]["optimizer"])
    trials = chosen(rows)
    # Windows of windows, so that a point is the mean loss of the steps from its own to the next.
    step, loss = arrays["step"], arrays["loss"][trials].astype(np.float64)
    first = np.arange(0, len(step), -(-len(step) // POINTS))
    lengths = np.diff(step, append=rows[0]["steps"])
    with np.errstate(over="ignore", invalid="ignore"):
        weighted = np.add.reduceat(loss * lengths, first, axis=-1) / np.add.reduceat(lengths, first)
    curves = {
        "trial": trials,
        "step": step[first].tolist(),
        "loss": _rounded(weighted.tolist(), 4),
        "valid_step": arrays["valid_step"].tolist(),
        "valid_loss": _rounded(arrays["valid_loss"][trials].tolist(), 5),
    }
    sizes = {name: int(arrays[name]) for name in ("state_bytes", "param_bytes")}
    return {"curves": curves, "compile_seconds": _digits(float(arrays["compile_seconds"]), 3), **sizes}


def _rounded(values: Any, digits: int) -> Any:
    """Nested lists of numbers; None for what is not finite."""
    if isinstance(values, list):
        return [_rounded(value, digits) for value in values]
    return _digits(values, digits) if np.isfinite(values) else None


def _floats(values: Any) -> Any:
    """Nested lists with NaN for None."""
    if isinstance(values, list):
        return [_floats(value) for value in values]
    return float("nan") if values is None else values


def _digits(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


@dataclass(frozen=True)
class _Args:
    """Archive the baselines of a finished evaluation."""

    evaluation: tyro.conf.Positional[Path]
    """Output of `learned-opt evaluate`, best with --trials 42 --rerun-baselines."""
    out: Path | None = None
    """Folder of the archive; that of the package by default."""


if __name__ == "__main__":
    args = tyro.cli(_Args)
    try:
        files = write(args.evaluation, args.out or folder())
    except InputError as error:
        raise SystemExit(str(error)) from None
    print(f"{len(files)} baselines, {sum(file.stat().st_size for file in files):,} bytes: {files[0].parent}")
