"""An evaluation directory, read: the summary, the runs, and the curves of the best trials."""

import json
import math
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cattrs
import numpy as np
from jaxtyping import Bool, Float, Int

from learned_opt.errors import InputError
from meta_train.evaluate.curves import coarser
from meta_train.evaluate.selection import figure, finished
from meta_train.evaluate.store import Row, curves_path
from meta_train.evaluate.summary import Result, Summary


@dataclass(frozen=True)
class Curves:
    """An optimizer on a task: training losses of its best trial by them, validation losses of the best by those."""

    step: Int[np.ndarray, " P"]
    """First step of each window of steps."""
    loss: Float[np.ndarray, "seeds P"]
    """Training loss, mean over each window; not finite from a divergence on."""
    valid_step: Int[np.ndarray, " V"]
    """Updates made before each evaluation."""
    valid_loss: Float[np.ndarray, "seeds V"]
    """Validation loss."""
    diverged: Bool[np.ndarray, " seeds"]
    """Runs of the best trial by training loss that enter no mean."""
    valid_diverged: Bool[np.ndarray, " seeds"]
    """Runs of the best trial by validation loss that enter no mean."""


@dataclass(frozen=True)
class Evaluation:
    """What a report is made of."""

    directory: Path
    """Where it was read from."""
    summary: Summary
    """The figures."""
    groups: dict[tuple[str, str], list[Row]]
    """(task, optimizer) -> its runs."""
    missing: tuple[tuple[str, str], ...]
    """(task, optimizer) asked for and not finished."""

    @property
    def names(self) -> list[str]:
        """Optimizers: the learned ones first, each kind in the order asked."""
        return sorted(self.summary.overall, key=lambda name: self.summary.overall[name].kind != "learned")

    @property
    def budget(self) -> int:
        """The largest budget: trials of each baseline."""
        return max((n for o in self.summary.overall.values() for n in o.budgets), default=1)

    def kind(self, name: str) -> str:
        """learned or baseline."""
        return self.summary.overall[name].kind

    def result(self, task: str, name: str) -> Result | None:
        """Figures of a group; None if it is not finished."""
        return self.summary.per_task[task].get(name)

    def state_size(self, task: str, name: str) -> float | None:
        """Bytes of the optimizer's state over those of the parameters; None if they were not stored."""
        try:
            with np.load(curves_path(self.directory, task, name)) as arrays:
                return float(arrays["state_bytes"] / arrays["param_bytes"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def curves(self, task: str, name: str) -> Curves | None:
        """Curves of a group; None if it is not finished or its file cannot be read."""
        result = self.result(task, name)
        if result is None:
            return None
        trial, valid_trial = result.best_trial, result.budgets[max(result.budgets)].best_trial_valid
        runs = self.groups[task, name]
        lost = lambda trial: np.array([row["diverged"] for row in runs if row["trial"] == trial])
        try:
            with np.load(curves_path(self.directory, task, name)) as arrays:
                step, loss = coarser(arrays["step"], arrays["loss"][trial], runs[0]["steps"])
                valid = "valid_loss" in arrays
                return Curves(
                    step=step,
                    loss=loss,
                    valid_step=arrays["valid_step"] if valid else np.zeros(0, np.int32),
                    valid_loss=arrays["valid_loss"][valid_trial] if valid else np.zeros((len(loss), 0), np.float32),
                    diverged=lost(trial),
                    valid_diverged=lost(valid_trial),
                )
        except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
            return None


def load(directory: Path) -> Evaluation:
    """Read an evaluation.

    Args:
      directory: output of `learned-opt evaluate`, complete or not.

    Raises:
      InputError: there is no summary, or one of another version or of other runs than those there; the message has
        the command that writes it.
    """
    path = directory / "summary.json"
    if not path.is_file():
        raise InputError(f"report: {directory} holds no summary.json; run `{command(directory)}` first")
    try:
        summary = cattrs.structure(json.loads(path.read_text()), Summary)
    except (ValueError, KeyError, cattrs.BaseValidationError) as error:
        raise InputError(
            f"report: {path} is not a summary of this version; run `{command(directory)}` again"
        ) from error
    if not summary.per_task or not summary.overall:
        raise InputError(f"report: {path} has no finished task; run `{command(directory)}` to go on")
    groups = read_rows(directory / "results.jsonl")
    if (odd := disagreement(summary, groups)) is not None:
        raise InputError(
            f"report: {path} is not of the runs in results.jsonl ({odd}); run `{command(directory)}`, which keeps "
            "what is whole"
        )
    asked = [
        (task, name)
        for task in summary.configuration.get("tasks", summary.per_task)
        for name in summary.configuration.get("optimizers", summary.overall)
    ]
    missing = tuple((task, name) for task, name in asked if name not in summary.per_task.get(task, {}))
    return Evaluation(directory, summary, groups, missing)


def read_rows(path: Path) -> dict[tuple[str, str], list[Row]]:
    """(task, optimizer) -> rows of results.jsonl; lines that are cut short are left out."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            groups.setdefault((row["task"], row["optimizer"]), []).append(row)
        except (ValueError, KeyError, TypeError):
            continue
    return groups


def disagreement(summary: Summary, groups: Mapping[tuple[str, str], Sequence[Row]]) -> str | None:
    """What in the runs the summary does not say, in a few words; None if it is theirs."""
    for (task, name), rows in groups.items():
        if name in summary.overall and name not in summary.per_task.get(task, {}):
            return f"{len(rows)} runs of {name} on {task} are not in the summary"
    for task, results in summary.per_task.items():
        for name, result in results.items():
            rows = groups.get((task, name), ())
            if len(rows) != result.trials * result.seeds:
                return f"{len(rows)} runs of {name} on {task}, in the summary {result.trials * result.seeds}"
            for i, trial in enumerate(result.by_trial):
                runs = [row for row in rows if row["trial"] == i]
                mean, there = figure(runs, "final_train_loss").mean, trial.final_train_loss.mean
                same = mean == there if mean is None or there is None else math.isclose(mean, there, rel_tol=1e-9)
                if not same or len(runs) - len(finished(runs)) != trial.diverged:
                    return f"other losses of {name} on {task}, trial {i}"
    return None


def command(directory: Path) -> str:
    """The command that makes, or finishes, the evaluation in a directory."""
    optimizers, suite, rest = "NAMES", "SUITE", ""
    try:
        there: dict[str, Any] = json.loads((directory / "evaluation.json").read_text())
        optimizers, suite = shlex.quote(",".join(there["optimizers"])), shlex.quote(there["suite"])
        rest = "".join(f" --{name} {there[name]}" for name in ("steps", "seeds", "seed", "trials") if name in there)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return f"learned-opt evaluate --optimizers {optimizers} --suite {suite} --out {shlex.quote(str(directory))}{rest}"
