"""From training curves to steps to a target, paired by seed.

The target of a seed is the level that tuned AdamW has on it after a share of its steps: the least smoothed training
loss so far (`meta_train.evaluate.speedup`), and a thousandth of the way back to where it began, or rounding alone would
decide whether the same optimizer gets there again. Seeds share initialisation and batches over all contenders, so

    ratio = steps of the contender to that level / steps of AdamW to it

is a pair. Runs that do not get there within the budget count as the whole budget, and are counted. AdamW's trial is
the one with the lowest final level; every other contender's the one with the fewest steps to AdamW's final level, then
the lowest final level: both are chosen on the same runs, so no side has more of a choice.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from meta_train.evaluate.speedup import levels, steps_to
from meta_train.evaluate.statistics import Figure, student_t

SHARES = (0.5, 1.0)
"""Of AdamW's steps, whose level is the target."""
SLACK = 1e-3
"""Of the way from the first level to the target, that may be missing; for AdamW too."""
BEFORE = 5
"""Losses before a jump that are averaged."""


class Cell(NamedTuple):
    """Training runs of a contender on a task."""

    losses: np.ndarray
    """[trials, seeds, T]."""
    valid: np.ndarray
    """[trials, seeds], final validation losses."""


@dataclass(frozen=True)
class ToTarget:
    """Steps to a target."""

    ratio: Figure
    """To AdamW's, geometric mean over seeds, with an interval."""
    missed: int
    """Seeds that did not get there."""


@dataclass(frozen=True)
class Jump:
    """The loss about a jump, means over seeds."""

    step: int
    before: float | None
    """Mean of the last steps before it."""
    after: float | None
    """Of the step after it."""
    adamw: float | None
    """Of AdamW at that step."""


@dataclass(frozen=True)
class Score:
    """What a contender did on a task."""

    trial: dict[str, Any]
    targets: dict[str, ToTarget]
    """By the share."""
    final_valid: Figure
    diverged: int
    """Runs of all trials whose losses are not finite."""
    jumps: tuple[Jump, ...]


def scores(
    cells: dict[str, Cell], trials: dict[str, tuple[dict[str, Any], ...]], jumps: dict[str, list[int]], reference: str
) -> dict[str, Score]:
    """The scores of all contenders on one task.

    Args:
      cells: by contender; all of one T, with the same seeds.
      trials: settings, by contender.
      jumps: numbers of the updates that are jumps, from 0, by contender.
      reference: whose levels are the targets.
    """
    curves = {name: _curves(cell.losses) for name, cell in cells.items()}
    best = int(np.argmin([_mean_final(trial) for trial in curves[reference]]))
    base = curves[reference][best]
    made = {}
    for name, cell in cells.items():
        by_trial = [_ratios(trial, base) for trial in curves[name]]
        order = [
            (sum(ratios[SHARES[-1]][0]), _mean_final(trial))
            for ratios, trial in zip(by_trial, curves[name], strict=True)
        ]
        chosen = best if name == reference else min(range(len(order)), key=order.__getitem__)
        valid = [float(x) for x in cell.valid[chosen] if math.isfinite(x)]
        made[name] = Score(
            trial=trials[name][chosen],
            targets={str(share): _to_target(*by_trial[chosen][share]) for share in SHARES},
            final_valid=student_t(valid),
            diverged=int(np.sum(~np.isfinite(cell.losses).all(axis=-1))),
            jumps=tuple(_jump(cell.losses[chosen], cells[reference].losses[best], n) for n in jumps[name]),
        )
    return made


def geometric_mean(figures: list[Figure]) -> float | None:
    """Of the ratios of several tasks; None without any."""
    values = [math.log(figure.mean) for figure in figures if figure.mean is not None]
    return math.exp(math.fsum(values) / len(values)) if values else None


def to_json(score: Score) -> dict[str, Any]:
    """JSON values, as they are read back: lists for tuples."""
    return json.loads(json.dumps(asdict(score)))


def _curves(losses: np.ndarray) -> list[list[Any]]:
    """Levels of every trial and seed; None for a run that diverged."""
    steps = losses.shape[-1]
    one = lambda x: levels(x[None], np.arange(steps), steps) if np.isfinite(x).all() else None
    return [[one(x) for x in trial] for trial in losses]


def _mean_final(trial: list[Any]) -> float:
    return math.inf if any(x is None for x in trial) else float(np.mean([x.level[-1] for x in trial]))


def _ratios(trial: list[Any], base: list[Any]) -> dict[float, tuple[list[float], int]]:
    """Share -> ratios of the seeds, and how many did not get there."""
    found = {}
    for share in SHARES:
        ratios, missed = list[float](), 0
        for own, reference in zip(trial, base, strict=True):
            if reference is None:
                continue
            budget = reference.time[-1]
            target = reference.level[max(math.ceil(share * len(reference.level)) - 1, 0)]
            target += SLACK * (reference.level[0] - target)
            steps = None if own is None else steps_to(target, own.level, own.time)
            missed += steps is None
            # A level that is there at once is reached by the first update.
            spent = max(steps_to(target, reference.level, reference.time) or 0.0, 1.0)
            ratios.append(max(budget if steps is None else steps, 1.0) / spent)
        found[share] = ratios, missed
    return found


def _to_target(ratios: list[float], missed: int) -> ToTarget:
    logs = student_t([math.log(x) for x in ratios])
    power = lambda x: None if x is None else math.exp(x)
    return ToTarget(Figure(power(logs.mean), power(logs.low), power(logs.high), logs.n), missed)


def _jump(losses: np.ndarray, reference: np.ndarray, n: int) -> Jump:
    mean = lambda x: float(np.mean(x)) if np.isfinite(x).all() else None
    return Jump(n, mean(losses[:, max(n + 1 - BEFORE, 0) : n + 1]), mean(losses[:, n + 1]), mean(reference[:, n + 1]))
