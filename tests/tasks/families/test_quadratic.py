"""Quadratics against their closed forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.errors import InputError
from tasks.families.quadratic import Quadratics, quadratic, random_rotation, spectrum
from tasks.task import Task, TaskFamily

KEY = jax.random.key(0)
D = 12


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def task():
    rotation = random_rotation(jax.random.key(1), D)
    return quadratic(KEY, "q", spectrum("geometric", KEY, D, 1e3), rotation, (3, 4), noise=0.5, batch_size=7)


value_and_grad = jax.jit(lambda task, *a: jax.value_and_grad(task.loss, has_aux=True)(*a))
evaluate = jax.jit(lambda task, params, split: task.evaluate(params, {}, split), static_argnums=2)
at = lambda x: {"quadratic": {"x": jnp.asarray(x, jnp.float32)}}
float64 = lambda *arrays: (np.asarray(a, np.float64) for a in arrays)


def test_loss_and_gradient(task):
    assert isinstance(task, Task)
    params, batch = task.init(KEY).params, task.batch(jax.random.key(3))
    (loss, _), g = value_and_grad(task, params, {}, batch, KEY)
    R, λ, best, ξ, x = float64(task.rotation, task.spectrum, task.optimum, batch["noise"], params["quadratic"]["x"])
    y = R @ x.ravel() - best
    np.testing.assert_allclose(loss, np.mean(((y - ξ) ** 2) @ λ) / 2, rtol=1e-5)
    expected = (R.T @ (λ * (y - ξ.mean(0)))).reshape(3, 4)
    np.testing.assert_allclose(g["quadratic"]["x"], expected, rtol=1e-4, atol=1e-6)
    assert ξ.shape == (7, D) and 0.3 < ξ.std() < 0.7


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_optimum(task, noise):
    task = replace(task, noise=noise)
    best = at((task.rotation.T @ task.optimum).reshape(3, 4))
    for split in ("train", "valid"):
        # a split of 2,048 examples, whose loss deviates by sqrt(2 sum λ² / 2048) σ² / 2
        np.testing.assert_allclose(evaluate(task, best, split), task.lowest_loss, rtol=0.1, atol=1e-10)
    g = value_and_grad(task, best, {}, {"noise": jnp.zeros((1, D))}, KEY)[1]
    np.testing.assert_allclose(g["quadratic"]["x"], 0, atol=1e-6)
    assert task.lowest_loss == noise**2 / 2


def test_losses_start_at_the_stated_level(task):
    for noise in (0.1, 1.0):
        noisy = replace(task, noise=noise)
        start = jax.jit(jax.vmap(lambda key, task=noisy: task.loss(*task.init(key), task.batch(key), key)[0]))
        losses = np.asarray(start(jax.random.split(KEY, 2000)))
        assert abs(losses.mean() - noisy.initial_loss) < 5 * losses.std() / np.sqrt(2000)
        assert losses.mean() < noisy.loss_cap
    np.testing.assert_allclose(jnp.sum(task.spectrum), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(task.spectrum * task.optimum**2), 1, rtol=1e-5)


def test_splits_are_fixed_and_differ_by_their_noise_alone(task):
    params = task.init(KEY).params
    train, again, valid = (evaluate(task, params, split) for split in ("train", "train", "valid"))
    assert train == again != valid
    np.testing.assert_allclose(train, valid, rtol=0.1)
    exact = replace(task, noise=0.0)
    assert evaluate(exact, params, "train") == evaluate(exact, params, "valid")
    with pytest.raises(InputError, match=r"^split 'test': expected train or valid$"):
        task.evaluate(params, {}, "test")


def test_spectra():
    geometric = np.asarray(spectrum("geometric", KEY, 9, 1e4))
    np.testing.assert_allclose(geometric, 10 ** -np.linspace(0, 4, 9), rtol=1e-4)
    np.testing.assert_allclose(spectrum("power_law", KEY, 9, 9.0), 1 / np.arange(1, 10), rtol=1e-5)
    np.testing.assert_allclose(spectrum("power_law", KEY, 1, 9.0), 1)
    drawn = np.log10(np.asarray(spectrum("log_uniform", KEY, 1000, 1e4)))
    assert -4 <= drawn.min() < -3.9 and -0.1 < drawn.max() <= 0 and abs(drawn.mean() + 2) < 0.2
    with pytest.raises(InputError, match=r"^spectrum 'flat': expected one of geometric, log_uniform, power_law$"):
        spectrum("flat", KEY, 3, 1.0)


def test_rotations_are_orthogonal_and_uniform():
    R = np.asarray(random_rotation(KEY, 5))
    np.testing.assert_allclose(R @ R.T, np.eye(5), atol=1e-6)
    # without the sign of the diagonal, the first entries would all be negative
    first = np.asarray(jax.jit(jax.vmap(lambda key: random_rotation(key, 3)[0, 0]))(jax.random.split(KEY, 300)))
    assert abs(first.mean()) < 0.15 and abs((first**2).mean() - 1 / 3) < 0.08


def test_initial_scale_covers_its_range(task):
    drawn = replace(task, initial_scale=(0.1, 10.0))
    sizes = jax.jit(jax.vmap(lambda key: jnp.std(drawn.init(key).params["quadratic"]["x"])))(jax.random.split(KEY, 300))
    assert sizes.min() < 0.15 and sizes.max() > 6


def test_a_family_stays_in_its_ranges():
    family = Quadratics(width=(1, 3), condition=(2.0, 50.0))
    assert isinstance(family, TaskFamily)
    drawn = [family.sample(key) for key in jax.random.split(KEY, 12)]
    again = family.sample(jax.random.split(KEY, 12)[3])
    assert jax.tree.structure(again) == jax.tree.structure(drawn[3])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again, drawn[3]))
    assert len({task.name for task in drawn}) == 12
    assert {axis for task in drawn for axis in task.shape} == {1, 2, 3}
    assert {task.rotation is None for task in drawn} == {True, False}
    for task in drawn:
        λ = np.asarray(task.spectrum)
        assert λ.max() / λ.min() <= 50.1 and 0.01 <= task.noise <= 1 and task.batch_size in (1, 2, 4, 8, 16, 32, 64)
        assert task.dimensions == {"width": max(task.shape)}
        assert task.init(KEY).params["quadratic"]["x"].shape == task.shape
