"""Intervals and tests for the figures of a task, and for counts of tasks.

The sampling unit is the seed (initialisation and batches), and the task where tasks are counted. Every interval is
two-sided at `LEVEL`. Runs that diverged are left out by the callers, who count them; nothing here drops a value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import binomtest

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


@dataclass(frozen=True)
class Share:
    """A share of a number of cases with its interval."""

    count: int
    """Cases that are counted."""
    n: int
    """All cases."""
    share: float | None
    """`count` / `n`; None of nothing."""
    low: float | None
    """Lower end of the interval."""
    high: float | None
    """Upper end of the interval."""


def student_t(values: Sequence[float]) -> Figure:
    """Mean with Student's interval, mean ± t_{n-1} s / sqrt(n); no interval for a single value.

    Args:
      values: finite and independent.
    """
    n = len(values)
    if n == 0:
        return Figure(None, None, None, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Figure(mean, None, None, 1)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * _error(values, mean)
    return Figure(mean, mean - half, mean + half, n)


def _error(values: Sequence[float], mean: float) -> float:
    """Standard error of the mean of at least two values; in plain floats, which are faster for a few."""
    n = len(values)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Figure:
    """Mean of a_i - b_i with Student's interval over the pairs."""
    return student_t([x - y for x, y in zip(a, b, strict=True)])


def paired_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """p-value of Student's paired test of equal means, two-sided; None below two pairs.

    The tests without an assumption of normal differences cannot decide with the few seeds of an evaluation: of n
    pairs, the least p of the exact sign-flip test, and of Wilcoxon's, is 2 / 2^n, which is above 0.05 up to n = 5.
    Without spread p is 0, or 1 for equal pairs.
    """
    n = len(a)
    if n < 2:
        return None
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = math.fsum(differences) / n
    error = _error(differences, mean)
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2.0 * stdtr(n - 1, -abs(mean) / error))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number m (Holm 1979); the chance of any false rejection stays below the level.

    p'_(k) = max_{j <= k} min(1, (m - j + 1) p_(j))     (k): k-th smallest
    """
    order = np.argsort(p)
    corrected = np.minimum(1.0, (len(p) - np.arange(len(p))) * np.asarray(p, float)[order])
    result = np.empty(len(p))
    result[order] = np.maximum.accumulate(corrected)
    return result.tolist()


def share(count: int, n: int) -> Share:
    """count / n with the exact interval of Clopper and Pearson (1934), which holds for few cases too."""
    if n == 0:
        return Share(0, 0, None, None, None)
    interval = binomtest(count, n).proportion_ci(LEVEL, method="exact")
    return Share(count, n, count / n, float(interval.low), float(interval.high))


def ratio_of_logs(logs: Sequence[float]) -> Figure:
    """Geometric mean of ratios, given their logarithms, with Student's interval of the logarithms."""
    return exponential(student_t(logs))


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
