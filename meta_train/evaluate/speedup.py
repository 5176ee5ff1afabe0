"""How much faster an optimizer trains than another one: ratios of steps to equal levels of the loss.

Levels of a training curve x(t), t = updates made, of runs of T updates over all seeds:

    m_i  = mean over seeds of x(t_i)
    s_i  = sum_{j <= i} b^((t_i - t_j) / h) m_j / sum_{j <= i} b^((t_i - t_j) / h)      b = 0.95, h = T / 1000
    l_i  = min_{j <= i} s_j,        L = s_N, where it ends

That is the smoothing of VeLO (Metz et al. 2022, arXiv:2211.09760: 0.95, on 1,000 evaluations a run), with weights that
add up to 1 from the start, so that it does not lag at first; b per thousandth of the run makes it independent of T and
of how many points are stored. With t(l, L) the time at which l first gets to L, interpolated between points, and t_N
that of the last point,

    speed-up = t_N / t(own, L(reference))        where own ends at the level of the reference or below
             = t(reference, L(own)) / t_N        where it does not: below 1

What the baseline was given is T updates, tuned for that number. The first branch says how much of them the optimizer
needs for what the baseline delivers. How many more than T it would need where it does not get there, its run cannot
show; that the baseline can do with a part of T, the baseline's run does. So nothing is extrapolated or
censored, the branches meet at 1, and exchanging the two inverts the number. Its range is 1 / T to T: a level that is
reached before the first update counts as reached by it. Equal ends give 1. What counts is where a curve ends: one that
was low for a while and rose again has not been fast. Noise decides where both curves
end in a plateau: then the final losses say more.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DECAY = 0.95
"""b, per thousandth of a run."""


class Levels(NamedTuple):
    """What runs of one trial had reached by when."""

    time: Float[np.ndarray, " points"]
    """Updates made at each point, t_i; the middle of its window where points are means."""
    level: Float[np.ndarray, " points"]
    """l_i; does not increase."""
    final: float
    """L, at least the last level."""


def levels(loss: Float[np.ndarray, "seeds points"], step: Int[np.ndarray, " points"], steps: int) -> Levels:
    """Levels of the runs of a trial.

    Args:
      loss: finite; loss of each step before its update, or means of it over windows of steps.
      step: first step of each window.
      steps: T.
    """
    time = step + (np.diff(step, append=steps) - 1) / 2.0
    smoothed = smooth(loss.mean(axis=0, dtype=np.float64), time, steps)
    return Levels(time, np.minimum.accumulate(smoothed), float(smoothed[-1]))


def smooth(x: Float[np.ndarray, " points"], time: Float[np.ndarray, " points"], steps: int) -> np.ndarray:
    """s_i of the module, by the recursion of numerator and denominator."""
    smoothed, total, weight = np.empty(len(x)), 0.0, 0.0
    decay = DECAY ** (1000.0 * np.diff(time, prepend=time[:1]) / steps)
    for i, value in enumerate(x):
        total, weight = decay[i] * total + value, decay[i] * weight + 1.0
        smoothed[i] = total / weight
    return smoothed


def steps_to(
    target: float, level: Float[np.ndarray, " points"], time: Float[np.ndarray, " points"] | Int[np.ndarray, " points"]
) -> float | None:
    """The time at which a curve is first at `target` or below, linear between its points; None if it never is.

    Args:
      target: the level.
      level: the curve; a point that is not finite is above the level.
      time: of its points, increasing.
    """
    below = np.flatnonzero(level <= target)
    if below.size == 0:
        return None
    i = int(below[0])
    if i == 0 or not np.isfinite(level[i - 1]):
        return float(time[i])
    share = (level[i - 1] - target) / (level[i - 1] - level[i])
    return float(time[i - 1] + share * (time[i] - time[i - 1]))


def speedup(own: Levels, reference: Levels) -> float:
    """Speed-up of `own` over `reference`; the definition and its reasons are those of the module."""
    final, goal = own.final, reference.final
    if final == goal:
        return 1.0
    if final < goal:
        return _at_least_one(own.time[-1]) / _at_least_one(steps_to(goal, own.level, own.time))
    return _at_least_one(steps_to(final, reference.level, reference.time)) / _at_least_one(reference.time[-1])


def _at_least_one(steps: float | None) -> float:
    assert steps is not None  # the lower curve passes the end of the higher one
    return max(float(steps), 1.0)
