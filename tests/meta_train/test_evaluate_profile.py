import math

import numpy as np
import pytest

from meta_train.evaluate.profile import TAU, profile

INF = math.inf


def at(line, tau):
    """The value of a step function, given on the grid, just above tau."""
    return line[int(np.searchsorted(TAU, tau))]


def test_profile_by_hand():
    # ratios: a 1, 1, 2, 5; b 4, 1, 1, 1
    found = profile({"a": [1.0, 3.0, 4.0, 5.0], "b": [4.0, 3.0, 2.0, 1.0]})
    a, b = found.lines["a"].share, found.lines["b"].share
    assert (found.tasks, found.tau, len(a)) == (4, TAU, len(TAU))
    assert (TAU[0], TAU[-1]) == (1.0, 10.0)
    assert a[0] == 0.5 and b[0] == 0.75  # both are best where they tie
    assert [at(a, tau) for tau in (1.5, 2.01, 4.7, 5.01)] == [0.5, 0.75, 0.75, 1.0]
    assert [at(b, tau) for tau in (3.8, 4.01)] == [0.75, 1.0]
    assert (a[-1], b[-1]) == (1.0, 1.0)
    # (4 - r) / 3, none below 0: a 1, 1, 2/3, 0; b 0, 1, 1, 1
    assert found.area == pytest.approx({"a": 2 / 3, "b": 3 / 4})


def test_a_failure_is_within_no_factor():
    found = profile({"a": [1.0, INF, INF], "b": [2.0, 1.0, INF]})
    assert found.lines["a"].share[0] == pytest.approx(1 / 3, abs=1e-6)
    assert found.lines["a"].share[-1] == pytest.approx(1 / 3, abs=1e-6)
    assert found.lines["b"].share[-1] == pytest.approx(2 / 3, abs=1e-6)  # nobody solved the third
    assert found.area["a"] == pytest.approx(1 / 3)
    assert found.area["b"] == pytest.approx((2 / 3 + 1) / 3)
    assert profile({"a": [INF]}).lines["a"].share[-1] == 0.0


def test_bands():
    rng = np.random.default_rng(0)
    values = {name: rng.lognormal(size=40).tolist() for name in "abc"}
    found = profile(values)
    assert profile(values) == found
    for line in found.lines.values():
        share, low, high = map(np.array, (line.share, line.low, line.high))
        assert (low <= share).all() and (share <= high).all() and (np.diff(share) >= 0).all()
        # Of 40 tasks, about 1.96 standard errors of a share to each side.
        middle = int(np.argmin(np.abs(share - 0.5)))
        error = math.sqrt(share[middle] * (1 - share[middle]) / 40)
        assert high[middle] - low[middle] == pytest.approx(2 * 1.96 * error, rel=0.25)
    few = profile({"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0]}).lines["a"]
    assert few.low == few.share == few.high


def test_rounding_does_not_cost_the_best_its_place():
    found = profile({"a": [0.1 + 0.2], "b": [0.3]})
    assert found.lines["a"].share[0] == found.lines["b"].share[0] == 1.0
