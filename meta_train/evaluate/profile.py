"""Performance profiles (Dolan, More 2002, arXiv:cs/0102001).

    r_{k,o} = v_{k,o} / min_o v_{k,o}        rho_o(tau) = share of the tasks k with r_{k,o} <= tau

v: a loss or a number of steps, infinite for a failure; so a failure is in no share, and a task on which everybody fails
lowers all lines. The score of AlgoPerf (Dahl et al. 2023, arXiv:2306.07179) is the normalised area up to tau = 4,

    area_o = 1 / 3  integral_1^4 rho_o(tau) dtau = mean over tasks of max(0, (4 - r_{k,o}) / 3)

A line depends on who else is compared: the best of a task is the best of these optimizers. Bands are percentiles of
the bootstrap over tasks, point by point, with the same resamples for all lines.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from meta_train.evaluate.aggregate import FEWEST, RESAMPLES, SEED
from meta_train.evaluate.statistics import LEVEL
from meta_train.evaluate.summary import Line, Profile

TAU = tuple(float(f"{tau:.6g}") for tau in np.geomspace(1.0, 10.0, 61))
"""Factors at which lines are given."""
LAST = 4.0
"""End of the area."""


def profile(values: Mapping[str, Sequence[float]]) -> Profile:
    """The profile of some optimizers.

    Args:
      values: optimizer -> loss or steps on each task, positive; infinite for a failure. At least one task.
    """
    v = np.array([values[name] for name in values], float)
    best = v.min(axis=0)
    ratios = np.full(v.shape, np.inf)
    np.divide(v, best[None], out=ratios, where=np.isfinite(v))
    tasks = v.shape[1]
    drawn = np.random.default_rng(SEED).integers(tasks, size=(RESAMPLES, tasks))
    counts = np.stack([np.bincount(row, minlength=tasks) for row in drawn]).astype(float)
    tail = (1.0 - LEVEL) / 2.0
    lines = {}
    for name, r in zip(values, ratios, strict=True):
        # Ratios of the best are 1 up to rounding; the last digit must not move a task past a tau of the grid.
        within = (r[:, None] <= np.array(TAU)[None] * (1.0 + 1e-9)).astype(float)
        rho = within.mean(axis=0)
        low, high = rho, rho
        if tasks >= FEWEST:
            low, high = np.quantile(counts @ within / tasks, [tail, 1.0 - tail], axis=0)
        lines[name] = Line(*(tuple(np.round(x, 6).tolist()) for x in (rho, low, high)))
    areas = np.maximum(0.0, (LAST - ratios) / (LAST - 1.0)).mean(axis=1)
    return Profile(TAU, lines, dict(zip(values, areas.tolist(), strict=True)), tasks)
