"""Archived results of baselines: judging one more optimizer need not train thirty others again.

    archive/SUITE/OPTIMIZER.json.gz   all trials of one baseline on the tasks of a suite

Rows are exact to six digits; curves have four, of `curves.POINTS` points, and are there only for the trials that are
best at a named budget, for any number of the first seeds. `archived` says when they are used.

    python -m meta_train.evaluate.archive DIR [--out FOLDER]

writes the baselines of a finished evaluation in DIR to the folder, by default that of the package.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from learned_opt.errors import InputError
from meta_train.evaluate import curves, store
from meta_train.evaluate.archived import FORMAT, NUMBERS, folder
from meta_train.evaluate.budget import BUDGETS
from meta_train.evaluate.statistics import student_t
from meta_train.evaluate.store import Row

MEASURES = ("mean_train_loss", "final_train_loss", "final_valid_loss")
"""What a trial may be chosen by; the curves of all these choices are kept."""
DIGITS = 6
"""Digits of an archived number."""


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

    By the first seed alone, by the first two, and so on: an evaluation may ask for fewer. Of the losses as they will be
    read back, or a tie that rounding makes would be decided otherwise there, for a trial without curves.
    """
    trials = [[row for row in rows if row["trial"] == i] for i in range(rows[-1]["trial"] + 1)]

    def rank(trial: int, measure: str, seeds: int) -> tuple[int, float]:
        finished = [_digits(row[measure], DIGITS) for row in trials[trial][:seeds] if not row["diverged"]]
        mean = student_t(finished).mean
        return seeds - len(finished), np.inf if mean is None else mean

    return sorted(
        {
            min(range(min(budget, len(trials))), key=lambda i: rank(i, measure, seeds))
            for budget, measure, seeds in product(BUDGETS, MEASURES, range(1, len(trials[0]) + 1))
        }
    )


def _columns(rows: Sequence[Row], seeds: int) -> dict[str, Any]:
    """Of each field, values [trial][seed]."""
    round_ = lambda x: x if x is None or isinstance(x, int) else _digits(x, DIGITS)
    columns = {field: [round_(row[field]) for row in rows] for field in NUMBERS}
    table = {field: [values[i : i + seeds] for i in range(0, len(values), seeds)] for field, values in columns.items()}
    return table | {"seconds": _digits(rows[0]["seconds"], 3)}


def _curves(evaluation: Path, rows: Sequence[Row]) -> dict[str, Any]:
    arrays = store.read_curves(evaluation, rows[0]["task"], rows[0]["optimizer"])
    trials = chosen(rows)
    step, loss = curves.coarser(arrays["step"], arrays["loss"][trials], rows[0]["steps"])
    kept = {
        "trial": trials,
        "step": step.tolist(),
        "loss": _rounded(loss.tolist(), 4),
        "valid_step": arrays["valid_step"].tolist(),
        "valid_loss": _rounded(arrays["valid_loss"][trials].tolist(), 5),
    }
    sizes = {name: int(arrays[name]) for name in ("state_bytes", "param_bytes")}
    return {"curves": kept, "compile_seconds": _digits(float(arrays["compile_seconds"]), 3), **sizes}


def _rounded(values: Any, digits: int) -> Any:
    """Nested lists of numbers; None for what is not finite."""
    if isinstance(values, list):
        return [_rounded(value, digits) for value in values]
    return _digits(values, digits) if np.isfinite(values) else None


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
