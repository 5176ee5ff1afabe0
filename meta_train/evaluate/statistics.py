"""Intervals for the figures of a comparison.

The sampling unit is the seed (initialisation and batches); tasks are a fixed list and not a sample. Every
interval is two-sided at `LEVEL`. Runs that diverged are left out by the callers, who count them; nothing here
drops a value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
"""Coverage of every interval."""


@dataclass(frozen=True)
class Figure:
    """A figure with its interval; the fields are None where there is nothing to compute them from."""

    mean: float | None
    """The figure."""
    low: float | None
    """Lower end of the interval."""
    high: float | None
    """Upper end of the interval."""
    n: int
    """Values behind it."""


def student_t(values: Sequence[float]) -> Figure:
    """Mean with Student's interval, mean ± t_{n-1} s / sqrt(n); no interval for a single value.

    Args:
      values: finite and independent.
    """
    n = len(values)
    if n == 0:
        return Figure(None, None, None, 0)
    mean = float(np.mean(values))
    if n == 1:
        return Figure(mean, None, None, 1)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2) * np.std(values, ddof=1) / math.sqrt(n))
    return Figure(mean, mean - half, mean + half, n)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Figure:
    """Mean of a_i - b_i with Student's interval over the pairs."""
    return student_t([x - y for x, y in zip(a, b, strict=True)])


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Figure:
    """Geometric mean of a_i / b_i, with Student's interval of the logarithms.

    A ratio means nothing where a value is not positive: the figure is then empty, with n = 0.
    """
    if len(a) == 0 or min(*a, *b) <= 0:
        return Figure(None, None, None, 0)
    return exponential(paired_difference(np.log(a).tolist(), np.log(b).tolist()))


def mean_over_strata(strata: Sequence[Sequence[float]]) -> Figure:
    """Unweighted mean of the means of independent groups, with the Welch-Satterthwaite interval.

        mean = sum_k m_k / K     variance = sum_k u_k / K^2     u_k = s_k^2 / n_k
        degrees of freedom = (sum_k u_k)^2 / sum_k (u_k^2 / (n_k - 1))

    With one group it is `student_t`. There is no interval when a group has a single value.

    Args:
      strata: the values of each group, finite; each at least one value.
    """
    if len(strata) == 0:
        return Figure(None, None, None, 0)
    mean = float(np.mean([np.mean(values) for values in strata]))
    n = np.array([len(values) for values in strata])
    if n.min() == 1:
        return Figure(mean, None, None, int(n.sum()))
    u = np.array([np.var(values, ddof=1) for values in strata]) / n
    if u.sum() == 0.0:
        return Figure(mean, mean, mean, int(n.sum()))
    freedom = u.sum() ** 2 / np.sum(u**2 / (n - 1))
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2) * math.sqrt(u.sum()) / len(strata))
    return Figure(mean, mean - half, mean + half, int(n.sum()))


def exponential(figure: Figure) -> Figure:
    """The figure of the exponentials, e.g. a ratio from a difference of logarithms."""
    largest = 700.0  # e^710 is beyond float64
    up = lambda x: None if x is None or x > largest else math.exp(x)
    return Figure(up(figure.mean), up(figure.low), up(figure.high), figure.n)
