"""Figures over all tasks from those of the tasks.

A task on which an optimizer failed is in every n: its ratio is infinite, its speed-up 0, its verdict worse. Where only
the reference failed the ratio is 0 and the speed-up infinite. Where the optimizer is the reference both are 1.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from meta_train.evaluate.aggregate import interquartile_mean
from meta_train.evaluate.profile import profile
from meta_train.evaluate.statistics import LEVEL, Figure, exponential, holm, mean_over_strata, share
from meta_train.evaluate.summary import (
    AtBudget,
    Comparison,
    Overall,
    OverallAtBudget,
    Profile,
    Quality,
    Result,
    Speedup,
    Speedups,
    Versus,
)

VERDICTS = ("better", "worse", "undecided")


def overall(results: Sequence[Result], logs: Sequence[Sequence[float]]) -> Overall:
    """One optimizer over all tasks.

    Args:
      results: of each task.
      logs: of each task, ln(own / best baseline) of the final training loss by seed; empty where one failed.
    """
    compared = [values for values in logs if values]
    comparisons = [r.comparison for r in results if r.comparison is not None]
    return Overall(
        kind=results[0].kind,
        tasks=len(results),
        runs=sum(r.trials * r.seeds for r in results),
        ratio=exponential(mean_over_strata(compared)),
        tasks_compared=len(compared),
        verdicts=_counts([c.verdict for c in comparisons]),
        best_baseline=sum(r.kind == "baseline" and r.comparison is None and r.diverged == 0 for r in results),
        tasks_diverged=sum(r.diverged > 0 for r in results),
        diverged_all_trials=sum(r.diverged_all_trials for r in results),
        rate_at_edge=sum(r.rate_at_edge is not None for r in results),
        budgets={n: at_budget([r.budgets[n] for r in results]) for n in results[0].budgets},
    )


def at_budget(tasks: Sequence[AtBudget]) -> OverallAtBudget:
    """One optimizer over all tasks at one budget."""
    keys = dict.fromkeys(key for at in tasks for key in [*at.train, *at.valid])
    targets = [at.target for at in tasks if at.target is not None]
    published = [at.published.mean for at in tasks if at.published is not None and at.published.mean is not None]
    return OverallAtBudget(
        failed=sum(at.diverged > 0 for at in tasks),
        versus={
            key: Versus(
                train=quality([at.train.get(key) for at in tasks]),
                valid=quality([at.valid.get(key) for at in tasks]),
                speedup=speedups([at.speedup.get(key) for at in tasks]) if any(at.speedup for at in tasks) else None,
            )
            for key in keys
        },
        target=share(sum(t.steps is not None for t in targets), len(targets)) if targets else None,
        published=interquartile_mean(published) if published else None,
    )


def quality(comparisons: Sequence[Comparison | None]) -> Quality:
    """Final losses against one reference; None for a task where the optimizer is the reference."""
    others = [c for c in comparisons if c is not None]
    # Failures are decided without a test.
    p = holm([0.0 if c.ratio.mean is None else 1.0 if c.p is None else c.p for c in others])
    return Quality(
        iqm=exponential(interquartile_mean([0.0 if c is None else log_ratio(c) for c in comparisons])),
        better=share(sum(c.better for c in others), len(comparisons)),
        not_worse=share(len(comparisons) - sum(not c.not_worse for c in others), len(comparisons)),
        verdicts=_counts([c.verdict for c in others]),
        holm=_counts([c.verdict if p < 1 - LEVEL else "undecided" for c, p in zip(others, p, strict=True)]),
    )


def log_ratio(comparison: Comparison) -> float:
    """ln(own / reference); infinite for a failure, minus infinity if only the reference failed."""
    if comparison.ratio.mean is None:
        return -math.inf if comparison.better else math.inf
    return math.log(comparison.ratio.mean)


def speedups(values: Sequence[Speedup | None]) -> Speedups:
    """Speed-ups against one reference; None for a task where the optimizer is the reference."""
    numbers = [1.0 if s is None else math.inf if s.value is None else s.value for s in values]
    return Speedups(
        iqm=_geometric(numbers),
        faster=share(sum(x > 1.0 for x in numbers), len(numbers)),
        failed=sum(s is not None and s.case == "failed" for s in values),
    )


def _geometric(numbers: Sequence[float]) -> Figure:
    """Interquartile mean of logarithms: twice as fast here and half as fast there is neither. Zero if a zero counts."""
    figure = exponential(interquartile_mean([-math.inf if x == 0.0 else math.log(x) for x in numbers]))
    n = len(numbers)
    middle = sorted(numbers)[n // 4 : n - n // 4]
    return replace(figure, mean=0.0) if middle and middle[0] == 0.0 and math.isfinite(middle[-1]) else figure


def collect(values: dict[str, dict[str, list[float]]], name: str, at: AtBudget, least: float, curves: bool) -> None:
    """Append what a task adds to the profiles: measure -> optimizer -> a loss or steps, infinite for a failure."""
    add = lambda measure, value: values.setdefault(measure, {}).setdefault(name, []).append(value)
    for measure in ("final_train_loss", "final_valid_loss"):
        mean = getattr(at, measure).mean
        add(measure, math.inf if mean is None or at.diverged else max(mean, least))
    if curves:
        steps = None if at.target is None else at.target.steps
        add("steps_to_target", math.inf if steps is None else max(steps, 1.0))


def profiles(values: dict[str, dict[str, list[float]]]) -> dict[str, Profile]:
    """Measure -> profile, of what was collected."""
    return {measure: profile(of) for measure, of in values.items()}


def _counts(verdicts: Sequence[str]) -> dict[str, int]:
    return {v: verdicts.count(v) for v in VERDICTS}
