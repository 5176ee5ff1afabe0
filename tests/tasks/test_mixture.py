import jax
import jax.numpy as jnp
import pytest
from scipy import stats

from tasks.errors import InputError
from tasks.families.quadratic import quadratic
from tasks.mixture import Mixture, draw
from tasks.task import OneTask, TaskFamily

KEY = jax.random.key(0)


def one(name):
    return OneTask(name, quadratic(KEY, name, jnp.ones(2)))


def test_families_are_drawn_with_their_odds():
    mixture = Mixture("m", (one("never"), one("a"), one("b"), one("nor")), (0.0, 3.0, 1.0, 0.0))
    assert isinstance(mixture, TaskFamily)
    names = [mixture.sample(key).name for key in jax.random.split(KEY, 400)]
    assert set(names) == {"a", "b"}
    assert stats.binomtest(names.count("a"), 400, 0.75).pvalue > 1e-3


def test_equal_keys_draw_equal_tasks_with_keys_of_their_own():
    class Named:
        name = "named"

        def sample(self, key):
            return quadratic(key, str(jax.random.key_data(key)), jnp.ones(2))

    mixture = Mixture("m", (Named(), Named()), (1.0, 1.0))
    names = [mixture.sample(key).name for key in jax.random.split(KEY, 8)]
    assert names == [mixture.sample(key).name for key in jax.random.split(KEY, 8)]
    assert len(set(names)) == 8


@pytest.mark.parametrize(
    ("odds", "message"),
    [
        ((1.0,), r"^mixture 'm': 1 odds for 2 families, expected one each$"),
        ((1.0, -1.0), r"^mixture 'm': odds \(1.0, -1.0\), expected none below zero and one above$"),
        ((0.0, 0.0), r"expected none below zero and one above$"),
        ((1.0, float("nan")), r"expected none below zero and one above$"),
    ],
)
def test_unfit_odds(odds, message):
    with pytest.raises(InputError, match=message):
        Mixture("m", (one("a"), one("b")), odds)


def test_several_tasks_are_as_even_as_the_odds_allow_and_right_in_the_mean():
    mixture = Mixture("m", (one("a"), one("b")), (3.0, 1.0))
    counts = [[task.name for task in draw(mixture, key, 3)].count("a") for key in jax.random.split(KEY, 100)]
    assert set(counts) == {2, 3}  # 9/4 in the mean
    assert stats.binomtest(counts.count(3), 100, 0.25).pvalue > 1e-3
