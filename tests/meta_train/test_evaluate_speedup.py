import math

import numpy as np
import pytest

from meta_train.evaluate.speedup import Levels, levels, smooth, speedup, steps_to

TIME = np.arange(101.0)


def curve(*level, time=None):
    level = np.array(level, float)
    return Levels(np.arange(len(level)) * 1.0 if time is None else np.array(time, float), level, float(level[-1]))


def falling(level):
    return Levels(TIME, level, float(level[-1]))


def test_a_curve_that_rises_again_has_not_been_fast():
    own = levels(np.array([[10.0, 1.0, *[50.0] * 98]]), np.arange(100), 100)
    reference = levels(np.linspace(10.0, 1.0, 100)[None], np.arange(100), 100)
    assert own.final > 40 and speedup(own, reference) == pytest.approx(1 / 99)
    assert speedup(reference, own) == pytest.approx(99.0)


def test_steps_are_interpolated_between_points():
    level, time = np.array([8.0, 4.0, 4.0, 1.0]), np.array([0, 10, 20, 40])
    assert steps_to(4.0, level, time) == 10.0  # the first time
    assert steps_to(5.0, level, time) == 7.5
    assert steps_to(2.0, level, time) == pytest.approx(20 + 20 * 2 / 3)
    assert steps_to(1.0, level, time) == 40.0
    assert steps_to(0.99, level, time) is None
    assert steps_to(8.0, level, time) == steps_to(9.0, level, time) == 0.0


def test_steps_on_a_curve_that_rises_and_breaks():
    assert steps_to(3.0, np.array([5.0, 2.0, 9.0, 1.0]), np.arange(4)) == pytest.approx(2 / 3)
    assert steps_to(3.0, np.array([5.0, np.inf, 2.0]), np.arange(3)) == 2.0
    assert steps_to(3.0, np.array([5.0, np.nan, np.nan]), np.arange(3)) is None


def test_speedup_where_the_level_is_reached():
    # The reference ends at 2 after 8 updates; own is there at 3, halfway between 3 and 1.
    reference = curve(10, 9, 8, 7, 6, 5, 4, 3, 2)
    own = curve(10, 9, 3, 1.0, 1, 1, 1, 1, 0.5)
    assert speedup(own, reference) == pytest.approx(8 / 2.5)
    # Only when own gets there counts, not where it ends.
    assert speedup(curve(10, 9, 3, 1.0, 1, 1, 1, 1, 1.9), reference) == pytest.approx(8 / 2.5)


def test_speedup_where_it_is_not_reached():
    # Own ends at 5, where the reference is after 5 of 8 updates; that own is there early does not count.
    reference = curve(10, 9, 8, 7, 6, 5, 4, 3, 2)
    assert speedup(curve(10, 5, 5, 5, 5, 5, 5, 5, 5), reference) == pytest.approx(5 / 8)


def test_exchanging_the_two_inverts_and_equal_ends_are_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (falling(np.minimum.accumulate(rng.uniform(0, 1, 101))) for _ in range(2))
        assert speedup(a, b) * speedup(b, a) == pytest.approx(1.0)
        assert speedup(a, a) == 1.0
    assert speedup(curve(3, 1, 1, 1), curve(3, 2, 1, 1)) == 1.0  # plateaus say nothing


def test_both_branches_meet_at_one():
    reference = falling(2.0 - TIME / 100)
    for epsilon in (1e-9, -1e-9):
        own = falling(2.0 - (1.0 + epsilon) * TIME / 100)
        assert speedup(own, reference) == pytest.approx(1.0, abs=1e-6)


def test_range_is_the_number_of_updates():
    still, fast = curve(5, 5, 5, 5, 5), curve(5, 1, 1, 1, 1)
    assert speedup(fast, still) == 4.0
    assert speedup(still, fast) == 0.25
    assert speedup(Levels(np.zeros(1), np.array([1.0]), 1.0), Levels(np.zeros(1), np.array([2.0]), 2.0)) == 1.0  # T = 1


def exponential(rate, steps, width=1, seeds=3):
    """Window means of exp(-rate t), the same for all seeds up to factors of mean 1."""
    first = np.arange(0, steps, width)
    loss = np.exp(-rate * np.arange(steps))
    means = np.array([loss[i : i + width].mean() for i in first])
    return np.linspace(0.5, 1.5, seeds)[:, None] * means[None], first, steps


@pytest.mark.parametrize("rates", [(0.004, 0.002), (0.002, 0.004), (0.003, 0.002)])
@pytest.mark.parametrize("steps, width", [(200, 1), (1000, 4), (2000, 8)])
def test_exponential_curves(rates, steps, width):
    """e^{-a t} takes b / a of the steps of e^{-b t}, smoothed or not, up to the lag of the smoothing."""
    scale = 1000 / steps
    own, reference = (levels(*exponential(scale * rate, steps, width)) for rate in rates)
    assert speedup(own, reference) == pytest.approx(rates[0] / rates[1], rel=0.03)


def test_time_is_the_middle_of_the_window():
    loss = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(levels(loss, np.array([0, 4, 8]), 10).time, [1.5, 5.5, 8.5])
    np.testing.assert_array_equal(levels(loss, np.array([0, 1, 2]), 3).time, [0, 1, 2])


def test_smoothing_by_hand():
    # T = 1000: 0.95 per update. Weighted means of the points so far, the latest with weight 1.
    found = smooth(np.array([1.0, 0.0, 2.0]), np.array([0.0, 1.0, 3.0]), 1000)
    q = 0.95
    expected = [1.0, q / (1 + q), (q**3 + 2.0) / (q**3 + q**2 + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # Of a run ten times as long, points ten times as far apart.
    np.testing.assert_allclose(smooth(np.array([1.0, 0.0, 2.0]), np.array([0.0, 10.0, 30.0]), 10_000), expected)
    np.testing.assert_allclose(smooth(np.full(50, 3.0), np.arange(50.0), 50), 3.0)


def test_levels_are_of_the_mean_over_seeds_and_do_not_rise():
    noisy = np.array([[1.0, 5.0, 0.0, 4.0], [3.0, 1.0, 2.0, 8.0]])
    found = levels(noisy, np.arange(4), 4).level
    # T = 4: 0.95^250 per update, no smoothing to speak of; means 2 3 1 6
    np.testing.assert_allclose(found, [2.0, 2.0, 1.0, 1.0], atol=1e-4)


def test_noise_moves_the_speedup_little():
    rng = np.random.default_rng(0)
    noise = lambda: rng.lognormal(0.0, 0.15, (5, 200))
    values = []
    for _ in range(20):
        own, reference = (
            levels(exponential(rate, 200, seeds=5)[0] * noise(), np.arange(200), 200) for rate in (0.02, 0.01)
        )
        values.append(speedup(own, reference))
    assert math.exp(np.mean(np.log(values))) == pytest.approx(2.0, rel=0.1)
    assert np.std(np.log(values)) < 0.1
