"""The interquartile mean over tasks, with failures as the worst values.

    IQM = mean of the values left without the floor(n / 4) lowest and highest

That is the aggregate of rliable (Agarwal et al. 2021, arXiv:2108.13264).

The interval is a bootstrap over tasks, the sampling unit: it speaks of tasks like these, and the noise of the seeds is
in the values of the tasks already. (The reference resamples runs within tasks, which speaks of these tasks alone.)
The method is BCa (Efron 1987), from `scipy.stats.bootstrap` with a fixed seed.

Special cases, in this order:

* A value may be infinite, a failure. As long as failures are trimmed away the mean is a number, that of the trimming
  with failures as the worst of all; else it is None, and so is an end of the interval where resamples with too many
  failures decide it. BCa needs finite values, so the percentiles of the same resamples take its place.
* Fewer than `FEWEST` values: no interval.
* Equal values: the interval is the value.
* BCa is undefined (its jackknife values are equal, or all resamples are on one side): percentiles.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from meta_train.evaluate.statistics import LEVEL, Figure

FEWEST = 4
"""Values that have an interval at least; of 3 nothing is trimmed, and there are but 10 different resamples."""
RESAMPLES = 1999
"""Of the bootstrap."""
SEED = 0x69716D
"""Of the resampling: equal values, equal intervals."""
_ENORMOUS = 1e15
"""Stands for infinity, of which arithmetic makes no number."""


def trimmed(values: Float[np.ndarray, "*b n"], axis: int = -1) -> Float[np.ndarray, "*b"]:
    """The interquartile mean of finite values."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=axis))


def interquartile_mean(values: Sequence[float]) -> Figure:
    """Interquartile mean with its interval; see the module for the special cases.

    Args:
      values: one per task; infinite for a failure, of the sign that is bad or good.
    """
    x = np.asarray(values, float)
    n, finite = len(x), np.isfinite(x)
    if n == 0:
        return Figure(None, None, None, 0)
    replaced = np.clip(x, -_ENORMOUS, _ENORMOUS)
    middle = np.sort(x)[n // 4 : n - n // 4]
    mean = float(trimmed(replaced)) if np.isfinite(middle).all() else None
    if n < FEWEST or not finite.any():
        return Figure(mean, None, None, n)
    if np.ptp(replaced) == 0.0:
        return Figure(mean, mean, mean, n)
    low, high = _interval(replaced, "BCa" if finite.all() else "percentile")
    # A mean of finite values is between them: far beyond them it has a failure in it.
    least, most = float(x[finite].min()), float(x[finite].max())
    margin = 1.0 + most - least
    inside = lambda end: end if least - margin < end < most + margin else None
    return Figure(mean, inside(low), inside(high), n)


def _interval(x: np.ndarray, method: str) -> tuple[float, float]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        rng = np.random.default_rng(SEED)
        settings = {"confidence_level": LEVEL, "vectorized": True, "axis": -1, "rng": rng}
        found = stats.bootstrap((x,), trimmed, n_resamples=RESAMPLES, method=method, **settings)
        ends = found.confidence_interval
        if not (math.isfinite(ends.low) and math.isfinite(ends.high)):
            again = stats.bootstrap(
                (x,), trimmed, n_resamples=0, method="percentile", bootstrap_result=found, **settings
            )
            ends = again.confidence_interval
    return float(ends.low), float(ends.high)
