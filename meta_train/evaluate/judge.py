"""From training runs to the figures of a comparison: `summarize`, a function of rows and curves.

    summarize(groups, configuration, compile_seconds=…, curves=…, overhead=…)

`curves(task, optimizer)` gives the arrays of curves/TASK/NAME.npz as a dict; it is called once per pair. `overhead` is
what `overhead.measure` returned. Both may be left out: the summary then has no speed-ups, times to a target and costs.

    selection    which trial counts; two optimizers on a task
    speedup      ratios of steps
    overall      all tasks
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from meta_train.evaluate import overall, speedup
from meta_train.evaluate.budget import BUDGETS
from meta_train.evaluate.curves import coarser
from meta_train.evaluate.selection import (
    best_baseline,
    best_trial,
    compare,
    edge,
    failed,
    figure,
    finished,
    floor,
    log_ratios,
)
from meta_train.evaluate.statistics import Figure, student_t
from meta_train.evaluate.store import Row
from meta_train.evaluate.summary import (
    BEST,
    NOTES,
    AtBudget,
    Comparison,
    Overhead,
    Result,
    Speedup,
    Summary,
    ToTarget,
    TrialResult,
)

Curves = Callable[[str, str], Mapping[str, np.ndarray]]
"""(task, optimizer) -> loss [trials, seeds, points], step [points], valid_loss [trials, seeds, V], valid_step [V]."""


class Chosen(NamedTuple):
    """The runs of an optimizer on a task that count at a budget."""

    train: list[Row]
    """Of the best trial by the final training loss."""
    valid: list[Row]
    """Of the best trial by the final validation loss."""


class Task(NamedTuple):
    """All runs on one task."""

    runs: Mapping[str, list[Row]]
    """Optimizer -> rows."""
    curves: Mapping[str, Mapping[str, np.ndarray]]
    """Optimizer -> curves; empty if there are none."""
    least: float
    """The least loss in ratios."""


def summarize(
    groups: Mapping[tuple[str, str], Sequence[Row]],
    configuration: dict[str, Any],
    *,
    compile_seconds: Callable[[str, str], float],
    curves: Curves | None = None,
    overhead: Mapping[str, Overhead] | None = None,
) -> Summary:
    """The summary of a complete evaluation.

    Args:
      groups: (task, optimizer) -> its runs; every task has every optimizer.
      configuration: of the evaluation.
      compile_seconds: (task, optimizer) -> seconds.
      curves: see the module.
      overhead: optimizer -> cost.
    """
    names = list(dict.fromkeys(name for _, name in groups))
    numbers = budgets([row for rows in groups.values() for row in rows])
    per_task: dict[str, dict[str, Result]] = {}
    logs: dict[str, list[list[float]]] = {name: [] for name in names}
    values: dict[int, dict[str, dict[str, list[float]]]] = {n: {} for n in numbers}
    for name in dict.fromkeys(task for task, _ in groups):
        runs = {other: list(groups[name, other]) for other in names}
        loaded = {} if curves is None else {other: curves(name, other) for other in names}
        task = Task(runs, loaded, floor([row for rows in runs.values() for row in rows]))
        chosen = {n: {other: choose(runs[other], n) for other in names} for n in numbers}
        at = {n: at_budget(task, chosen[n]) for n in numbers}
        per_task[name] = {
            other: _result(runs[other], {n: at[n][other] for n in numbers}, compile_seconds(name, other))
            for other in names
        }
        best = best_baseline({other: c.train for other, c in chosen[numbers[-1]].items()}, "final_train_loss")
        for other in names:
            if best is not None:
                own, reference = (chosen[numbers[-1]][n].train for n in (other, best))
                lost = failed(own) or failed(reference)
                logs[other].append([] if lost else log_ratios(own, reference, "final_train_loss", task.least))
            for n in numbers:
                overall.collect(values[n], other, at[n][other], task.least, curves is not None)
    return Summary(
        configuration=configuration,
        budgets={name: results.trials for name, results in next(iter(per_task.values())).items()},
        seeds=list(range(next(iter(next(iter(per_task.values())).values())).seeds)),
        per_task=per_task,
        overall={name: overall.overall([results[name] for results in per_task.values()], logs[name]) for name in names},
        profiles={n: overall.profiles(values[n]) for n in numbers},
        overhead=dict(overhead or {}),
        notes=dict(NOTES),
    )


def budgets(rows: Sequence[Row]) -> tuple[int, ...]:
    """The named budgets up to the number of trials that were run, and that number."""
    trials = 1 + max(row["trial"] for row in rows)
    return tuple(sorted({*(n for n in BUDGETS if n <= trials), trials}))


def choose(rows: Sequence[Row], budget: int) -> Chosen:
    """What counts of an optimizer's runs on a task."""
    return Chosen(
        best_trial(rows, "final_train_loss", budget),
        best_trial(rows, "final_valid_loss", budget),
    )


def at_budget(task: Task, chosen: Mapping[str, Chosen]) -> dict[str, AtBudget]:
    """Optimizer -> figures, given what counts at one budget."""
    best_train = best_baseline({name: c.train for name, c in chosen.items()}, "final_train_loss")
    best_valid = best_baseline({name: c.valid for name, c in chosen.items()}, "final_valid_loss")
    reached = {name: _levels(task, name, c.train) for name, c in chosen.items()}
    baselines = [name for name, c in chosen.items() if c.train[0]["kind"] == "baseline"]
    found = {}
    for name, own in chosen.items():
        named = [] if name in baselines else [(other, other) for other in baselines]
        train = [(key, other) for key, other in [(BEST, best_train), *named] if other not in (None, name)]
        valid = [(key, other) for key, other in [(BEST, best_valid), *named] if other not in (None, name)]
        found[name] = AtBudget(
            best_trial=own.train[0]["trial"],
            best_trial_valid=own.valid[0]["trial"],
            mean_train_loss=figure(own.train, "mean_train_loss"),
            final_train_loss=figure(own.train, "final_train_loss"),
            final_valid_loss=figure(own.valid, "final_valid_loss"),
            diverged=len(own.train) - len(finished(own.train)),
            train={
                key: compare(own.train, chosen[other].train, "final_train_loss", task.least) for key, other in train
            },
            valid={
                key: compare(own.valid, chosen[other].valid, "final_valid_loss", task.least) for key, other in valid
            },
            speedup={key: _speedup(other, reached[name], reached[other]) for key, other in train if task.curves},
            target=_to_target(task, name, own.valid, None if best_valid is None else chosen[best_valid].valid),
            published=_published(task, own.train),
        )
    return found


def _levels(task: Task, name: str, rows: Sequence[Row]) -> speedup.Levels | None:
    """None without curves, or if the optimizer has failed."""
    if not task.curves or failed(rows):
        return None
    curves = task.curves[name]
    step, loss = coarser(curves["step"], curves["loss"][rows[0]["trial"]], rows[0]["steps"])
    return speedup.levels(loss, step, rows[0]["steps"])


def _speedup(baseline: str, own: speedup.Levels | None, reference: speedup.Levels | None) -> Speedup:
    if own is None:
        return Speedup(baseline, 0.0, "failed")
    if reference is None:
        return Speedup(baseline, None, "baseline_failed")
    value = speedup.speedup(own, reference)
    return Speedup(baseline, value, "reached" if value >= 1.0 else "behind")


def _to_target(task: Task, name: str, own: Sequence[Row], reference: Sequence[Row] | None) -> ToTarget | None:
    if not task.curves or reference is None or failed(reference):
        return None
    target = figure(reference, "final_valid_loss").mean
    assert target is not None
    curves, steps = task.curves[name], None
    if not failed(own):
        mean = curves["valid_loss"][own[0]["trial"]].mean(axis=0, dtype=np.float64)
        # The last moment is what the target is made of: the same mean, whatever the order of its sum.
        mean[-1] = figure(own, "final_valid_loss").mean
        steps = speedup.steps_to(target, mean, curves["valid_step"])
    seconds = None if steps is None else steps * own[0]["seconds"] / own[0]["steps"]
    return ToTarget(target, steps, seconds)


def _published(task: Task, rows: Sequence[Row]) -> Figure | None:
    """Over the published curves of a task; None if there are none, or the runs were never held against them."""
    known = any(row.get("velodrome_speedup") is not None for runs in task.runs.values() for row in runs)
    if not known or any("velodrome_speedup" not in row for row in rows):
        return None
    if failed(rows):
        return Figure(0.0, None, None, len(rows))
    return student_t([row["velodrome_speedup"] for row in rows])


def _result(rows: list[Row], at: dict[int, AtBudget], compile_seconds: float) -> Result:
    trials = [[row for row in rows if row["trial"] == i] for i in range(rows[-1]["trial"] + 1)]
    full = list(at.values())[-1]
    best = trials[full.best_trial]
    comparison: Comparison | None = full.train.get(BEST)
    return Result(
        kind=rows[0]["kind"],
        trials=len(trials),
        seeds=len(best),
        best_trial=full.best_trial,
        learning_rate=best[0]["learning_rate"],
        schedule=best[0]["schedule"],
        weight_decay=best[0]["weight_decay"],
        rate_at_edge=edge(rows, best),
        mean_train_loss=full.mean_train_loss,
        final_train_loss=full.final_train_loss,
        final_valid_loss=figure(best, "final_valid_loss"),
        diverged=full.diverged,
        diverged_all_trials=len(rows) - len(finished(rows)),
        seconds_per_run=rows[0]["seconds"],
        compile_seconds=compile_seconds,
        comparison=comparison,
        by_trial=tuple(
            TrialResult(
                runs[0]["learning_rate"],
                runs[0]["schedule"],
                runs[0]["weight_decay"],
                figure(runs, "final_train_loss"),
                len(runs) - len(finished(runs)),
            )
            for runs in trials
        ),
        budgets=at,
    )
