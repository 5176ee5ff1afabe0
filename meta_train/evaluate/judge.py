"""From training runs to the figures of a comparison.

Rules, all of them favourable to the baselines:

* The trial of an optimizer on a task is its best: fewest diverged seeds, then lowest mean over seeds of the
  mean training loss. It is chosen on the very seeds that are reported.
* Everybody is compared with the baseline that is best on that task after tuning, seed by seed.
* A diverged run (a loss that is not finite, anywhere) enters no mean: it is counted, and the n of a figure
  says how many runs are behind it. With a diverged seed an optimizer cannot be called better.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meta_train.evaluate.statistics import (
    Figure,
    exponential,
    mean_over_strata,
    paired_difference,
    paired_ratio,
    student_t,
)
from meta_train.evaluate.store import Row
from meta_train.evaluate.summary import NOTES, Comparison, Overall, Result, Summary, TrialResult, Verdict


def summarize(
    groups: Mapping[tuple[str, str], Sequence[Row]],
    configuration: dict[str, Any],
    *,
    compile_seconds: Callable[[str, str], float],
) -> Summary:
    """The summary of a complete evaluation.

    Args:
      groups: (task, optimizer) -> its runs; every task has every optimizer.
      configuration: of the evaluation.
      compile_seconds: (task, optimizer) -> seconds.
    """
    tasks = list(dict.fromkeys(task for task, _ in groups))
    names = list(dict.fromkeys(name for _, name in groups))
    per_task: dict[str, dict[str, Result]] = {}
    logs: dict[str, list[list[float]]] = {name: [] for name in names}
    for task in tasks:
        runs = {name: list(groups[task, name]) for name in names}
        best = {name: best_trial(runs[name]) for name in names}
        reference = best_baseline({n: best[n] for n in names if runs[n][0]["kind"] == "baseline"})
        per_task[task] = {}
        for name in names:
            versus = None if reference is None else (reference, best[reference])
            comparison = None if versus is None or name == reference else compare(best[name], *versus)
            seconds = compile_seconds(task, name)
            per_task[task][name] = _result(runs[name], best[name], comparison, seconds)
            if versus is not None:
                logs[name].append(_log_ratios(best[name], versus[1]))
    overall = {name: _overall([per_task[task][name] for task in tasks], logs[name]) for name in names}
    first = per_task[tasks[0]]
    budgets = {name: first[name].trials for name in names}
    seeds = list(range(first[names[0]].seeds))
    return Summary(configuration, budgets, seeds, per_task, overall, dict(NOTES))


def best_trial(rows: Sequence[Row]) -> list[Row]:
    """The runs of the best trial, by the rule of the module."""
    trials: dict[int, list[Row]] = {}
    for row in rows:
        trials.setdefault(row["trial"], []).append(row)
    return min(trials.values(), key=_rank)


def best_baseline(best: Mapping[str, Sequence[Row]]) -> str | None:
    """Name of the best baseline by the same rule, given the best trial of each; None if no run finished."""
    name = min(best, key=lambda name: _rank(best[name]), default=None)
    return name if name is not None and _finished(best[name]) else None


def compare(own: Sequence[Row], baseline: str, reference: Sequence[Row]) -> Comparison:
    """`own` against the runs `reference` of `baseline`, paired by seed."""
    a, b = _pairs(own, reference)
    difference = paired_difference(a, b)
    lost = len(_finished(own)) < len(own)
    verdict: Verdict = "undecided"
    if not _finished(own) or (difference.low is not None and difference.low > 0):
        verdict = "worse"
    elif difference.high is not None and difference.high < 0 and not lost:
        verdict = "better"
    return Comparison(baseline, paired_ratio(a, b), difference, len(own) - len(a), verdict)


def _rank(rows: Sequence[Row]) -> tuple[int, float]:
    finished = _finished(rows)
    mean = student_t([row["mean_train_loss"] for row in finished]).mean
    return len(rows) - len(finished), math.inf if mean is None else mean


def _finished(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row["diverged"]]


def _figure(rows: Sequence[Row], field: str) -> Figure:
    return student_t([row[field] for row in _finished(rows)])


def _pairs(own: Sequence[Row], reference: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Mean training losses of the seeds that both finished."""
    by_seed = {row["seed"]: row["mean_train_loss"] for row in _finished(reference)}
    both = [(row["mean_train_loss"], by_seed[row["seed"]]) for row in _finished(own) if row["seed"] in by_seed]
    return [a for a, _ in both], [b for _, b in both]


def _log_ratios(own: Sequence[Row], reference: Sequence[Row]) -> list[float]:
    """Per seed; empty where a ratio means nothing."""
    a, b = _pairs(own, reference)
    if len(a) == 0 or min(*a, *b) <= 0:
        return []
    return [math.log(x / y) for x, y in zip(a, b, strict=True)]


def _result(rows: list[Row], best: list[Row], comparison: Comparison | None, compile_seconds: float) -> Result:
    trials = [[row for row in rows if row["trial"] == i] for i in range(rows[-1]["trial"] + 1)]
    index = best[0]["trial"]
    rated = len(trials) > 1 and best[0]["learning_rate"] is not None
    edges = {0: "lowest", len(trials) - 1: "highest"} if rated else {}
    diverged = lambda runs: len(runs) - len(_finished(runs))
    return Result(
        kind=rows[0]["kind"],
        trials=len(trials),
        seeds=len(best),
        best_trial=index,
        learning_rate=best[0]["learning_rate"],
        rate_at_edge=edges.get(index),
        mean_train_loss=_figure(best, "mean_train_loss"),
        final_train_loss=_figure(best, "final_train_loss"),
        final_valid_loss=_figure(best, "final_valid_loss"),
        diverged=diverged(best),
        diverged_all_trials=diverged(rows),
        seconds_per_run=rows[0]["seconds"],
        compile_seconds=compile_seconds,
        comparison=comparison,
        by_trial=tuple(
            TrialResult(runs[0]["learning_rate"], _figure(runs, "mean_train_loss"), diverged(runs)) for runs in trials
        ),
    )


def _overall(results: Sequence[Result], logs: Sequence[list[float]]) -> Overall:
    compared = [values for values in logs if values]
    comparisons = [r.comparison for r in results if r.comparison is not None]
    return Overall(
        kind=results[0].kind,
        tasks=len(results),
        runs=sum(r.trials * r.seeds for r in results),
        ratio=exponential(mean_over_strata(compared)),
        tasks_compared=len(compared),
        verdicts={v: sum(c.verdict == v for c in comparisons) for v in ("better", "worse", "undecided")},
        best_baseline=sum(r.kind == "baseline" and r.comparison is None and not _all_lost(r) for r in results),
        tasks_diverged=sum(r.diverged > 0 for r in results),
        diverged_all_trials=sum(r.diverged_all_trials for r in results),
        rate_at_edge=sum(r.rate_at_edge is not None for r in results),
    )


def _all_lost(result: Result) -> bool:
    return result.diverged == result.seeds
