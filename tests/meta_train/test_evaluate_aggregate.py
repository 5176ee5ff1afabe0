import math

import numpy as np
import pytest
import scipy.stats

from meta_train.evaluate import aggregate
from meta_train.evaluate.aggregate import interquartile_mean
from meta_train.evaluate.statistics import Figure

INF = math.inf


@pytest.mark.parametrize(
    "values, mean",
    [
        ([5.0, 1.0, 2.0, 100.0], 3.5),  # 1 and 100 are trimmed
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0], 4.0),  # floor(7 / 4) = 1 at each end
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0], 3.5),  # 2 at each end
        ([1.0, 2.0, 6.0], 3.0),  # nothing is trimmed
        ([7.0], 7.0),
    ],
)
def test_mean_by_hand(values, mean):
    assert interquartile_mean(values).mean == pytest.approx(mean)
    assert interquartile_mean(values[::-1]).mean == pytest.approx(mean)
    assert interquartile_mean(values).n == len(values)


def test_interval_is_scipys_bca_of_the_trimmed_mean():
    x = np.random.default_rng(0).lognormal(size=23)
    figure = interquartile_mean(x.tolist())
    expected = scipy.stats.bootstrap(
        (x,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=1999,
        method="BCa",
        rng=np.random.default_rng(aggregate.SEED),
    ).confidence_interval
    assert (figure.low, figure.high) == (expected.low, expected.high)
    assert interquartile_mean(x.tolist()) == figure  # the same resamples each time


def test_coverage():
    """About 95 of 100 intervals over 20 symmetric tasks hold the truth."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        figure = interquartile_mean(rng.normal(2.0, 1.0, 20).tolist())
        assert figure.low is not None and figure.high is not None
        hits += figure.low <= 2.0 <= figure.high
    assert 0.89 < hits / 300 < 0.99  # a bootstrap of 20 values is a little narrow


def test_failures_are_the_worst_values_and_trimmed_as_such():
    figure = interquartile_mean([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, INF])
    assert figure.mean == 4.5  # of 3, 4, 5, 6; without the failure it would be 4
    assert figure.n == 8
    assert figure.low is not None and 1.0 <= figure.low < 4.5
    assert figure.high is None  # some resamples have three failures
    assert interquartile_mean([-INF, 1.0, 2.0, 3.0]).mean == 1.5
    assert interquartile_mean([-INF, 1.0, 2.0, 3.0]).low is None


def test_a_rare_failure_leaves_both_ends():
    figure = interquartile_mean([*map(float, range(1, 40)), INF])
    assert figure.mean == 20.5
    # Percentiles: that of BCa is a jackknife that the failure would decide.
    means = scipy.stats.bootstrap(
        ([*map(float, range(1, 40)), 1e15],),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=1999,
        method="percentile",
        rng=np.random.default_rng(aggregate.SEED),
    ).bootstrap_distribution
    np.testing.assert_allclose((figure.low, figure.high), np.quantile(means, [0.025, 0.975]))
    assert figure.high is not None and figure.high < 39.0


def test_failures_beyond_the_trimmed_quarter_leave_no_mean():
    figure = interquartile_mean([1.0, 2.0, 3.0, INF, INF])
    assert (figure.mean, figure.high, figure.n) == (None, None, 5)
    assert interquartile_mean([-INF, -INF, 1.0, 2.0, 3.0]).mean is None
    assert interquartile_mean([INF] * 4) == Figure(None, None, None, 4)
    assert interquartile_mean([INF]) == Figure(None, None, None, 1)
    # Successes and failures do not cancel.
    assert interquartile_mean([-INF, -INF, 1.0, INF, INF]).mean is None


def test_degenerate_values():
    assert interquartile_mean([]) == Figure(None, None, None, 0)
    assert interquartile_mean([1.0, 2.0, 6.0]) == Figure(3.0, None, None, 3)  # below 4 no interval
    assert interquartile_mean([2.0] * 4) == Figure(2.0, 2.0, 2.0, 4)
    # All jackknife values are equal, where BCa is undefined.
    figure = interquartile_mean([1.0] * 7 + [5.0])
    assert (figure.mean, figure.low) == (1.0, 1.0)
    assert figure.high is not None and 1.0 < figure.high < 5.0
