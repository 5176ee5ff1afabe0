import jax
import numpy as np
import pytest

from tasks.ranges import choice, log_uniform, log_uniform_int, power_of_two

KEYS = jax.random.split(jax.random.key(0), 400)


def test_log_uniform():
    draws = np.asarray(jax.vmap(lambda key: log_uniform(key, 0.01, 100.0))(KEYS))
    assert draws.min() > 0.0099 and draws.max() < 100.1
    np.testing.assert_allclose(np.quantile(np.log10(draws), [0.25, 0.5, 0.75]), [-1, 0, 1], atol=0.25)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (3, 3), (1, 4), (8, 128)])
def test_log_uniform_int(low, high):
    draws = np.array([log_uniform_int(key, low, high) for key in KEYS])
    assert draws.min() == low and draws.max() >= 0.95 * high and draws.max() <= high
    odds = np.log1p(1 / np.arange(low, high + 1)) / np.log((high + 1) / low)
    share = (draws == low).mean()
    assert abs(share - odds[0]) <= 5 * np.sqrt(abs(odds[0] * (1 - odds[0])) / len(KEYS))


def test_power_of_two_and_choice():
    assert {power_of_two(key, 16, 128) for key in KEYS[:60]} == {16, 32, 64, 128}
    assert {power_of_two(key, 64, 64) for key in KEYS[:5]} == {64}
    assert {choice(key, ("a", "b", "c")) for key in KEYS[:60]} == {"a", "b", "c"}
