"""`learned-opt nowcast evaluate`: steps to a target, beside AdamW at its best rate and other rivals.

Runs are those of `meta_train.evaluate.sweep`. Every contender is tuned over the same rates of AdamW.

    OUT/cells/TASK--CONTENDER.npz     losses of all runs, kept; the same command again goes on
    OUT/results.json                  scores
    OUT/results.md  OUT/curves.png    what they say
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from learned_opt.errors import InputError
from meta_train.evaluate.sweep import sweep
from meta_train.nowcast import report, scores
from meta_train.nowcast.config import EvaluateConfig
from meta_train.nowcast.contenders import REFERENCE, Entry, resolve
from meta_train.nowcast.folder import claim, write
from meta_train.nowcast.scores import Cell
from meta_train.nowcast.wirings import wiring_of
from meta_train.progress import Reporter
from meta_train.run_directory import git_revision, versions
from tasks import suites
from tasks.longer import steps_of
from tasks.task import Task


def evaluate(names: Sequence[str], config: EvaluateConfig, out: Path, reporter: Reporter | None = None) -> Any:
    """Train every task with every contender, and write the scores.

    Args:
      names: contenders, see `meta_train.nowcast.contenders`; AdamW is always among them.
      config: of the evaluation.
      out: directory of the results; more contenders may be added by a second call.
      reporter: of progress.

    Returns:
      The contents of results.json.

    Raises:
      InputError: unknown names, or a directory of another evaluation.
    """
    reporter = reporter or Reporter()
    entries = resolve(names, trials=config.trials, period=config.period)
    tasks = tasks_of(config.suite)
    with claim(out, "evaluation of nowcasting", asdict(config)):
        (out / "cells").mkdir(exist_ok=True)
        found = dict[str, dict[str, Any]]()
        curves = dict[str, dict[str, np.ndarray]]()
        for task in tasks:
            wiring = wiring_of(task)
            cells, trials, jumps = dict[str, Cell](), dict[str, Any](), dict[str, list[int]]()
            for entry in entries:
                contender = entry.of(wiring)
                cells[entry.name] = _cell(task, entry, contender, config, out, reporter)
                trials[entry.name] = contender.trials
                steps = steps_of(task, config.steps)
                jumps[entry.name] = jump_steps(steps, config.period) if entry.jumps else []
            made = scores.scores(cells, trials, jumps, REFERENCE)
            found[task.name] = {name: scores.to_json(score) for name, score in made.items()}
            found[task.name] |= {"wired": wiring is not None}
            places = {name: trials[name].index(score.trial) for name, score in made.items()}
            curves[task.name] = {name: cells[name].losses[place] for name, place in places.items()}
        overall = _overall(found, [entry.name for entry in entries])
        result = {
            "config": asdict(config),
            "contenders": {entry.name: entry.weights for entry in entries},
            "overall": overall,
            "tasks": found,
            "versions": versions(),
            "source": git_revision(),
        }
        write(out / "results.json", json.dumps(result, indent=2) + "\n")
        write(out / "results.md", report.markdown(result))
        report.figure(curves, out / "curves.png")
    return result


def tasks_of(suite: str) -> tuple[Task, ...]:
    """The tasks of a suite, or those named.

    Raises:
      tasks.errors.InputError: an unknown name.
    """
    if suite in suites.SUITES:
        return suites.suite(suite)
    return tuple(suites.task(name.strip()) for name in suite.split(","))


def jump_steps(steps: int, period: int) -> list[int]:
    """Numbers of the updates that are jumps, from 0, as `learned_opt.nowcast.wrapper` has them."""
    window = period // 5 * 5
    return [n for n in range(window - 1, steps - 1, window) if steps - (n + 1) >= window]


def _cell(task: Task, entry: Entry, contender: Any, config: EvaluateConfig, out: Path, reporter: Reporter) -> Cell:
    """The runs of a contender on a task, from the disk or made now."""
    slug = "".join(c if c.isalnum() or c in "@+_-" else "_" for c in entry.name)
    # Two paths may give one slug.
    slug += f"-{hashlib.sha256(entry.name.encode()).hexdigest()[:6]}"
    path = out / "cells" / f"{task.name}--{slug}.npz"
    weights = entry.weights or ""
    if path.exists():
        try:
            with np.load(path) as file:
                if str(file["weights"]) != weights:
                    raise InputError(
                        f"{path} is of other weights of {entry.name!r}: delete it to run again, or choose another --out"
                    )
                return Cell(file["losses"], file["valid"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} cannot be read ({error}): delete it and repeat the command") from error
    with reporter.task(f"{task.name} {entry.name}"):
        swept = sweep(task, contender, steps=steps_of(task, config.steps), seeds=config.seeds, seed=config.seed)
    cell = Cell(swept.losses, swept.valid_losses[:, :, -1])
    data = io.BytesIO()
    np.savez_compressed(data, losses=cell.losses, valid=cell.valid, weights=np.array(weights))
    write(path, data.getvalue())
    return cell


def _overall(found: dict[str, dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Geometric means over the tasks."""
    made = dict[str, Any]()
    for name in names:
        made[name] = {}
        for share in map(str, scores.SHARES):
            figures = [scores.Figure(**task[name]["targets"][share]["ratio"]) for task in found.values()]
            made[name][share] = scores.geometric_mean(figures)
    return made
