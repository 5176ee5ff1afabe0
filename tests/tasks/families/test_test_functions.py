"""Test functions against published values."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.errors import InputError
from tasks.families.quadratic import random_rotation
from tasks.families.test_functions import FUNCTIONS, Landscapes, landscape
from tasks.task import Task, TaskFamily

KEY = jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# The forms as published, in numpy, before they were rearranged.
PUBLISHED = {
    "rosenbrock": lambda x: np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (x[:-1] - 1) ** 2),
    "rastrigin": lambda x: 10 * x.size + np.sum(x**2 - 10 * np.cos(2 * np.pi * x)),
    "ackley": lambda x: (
        -20 * np.exp(-0.2 * np.sqrt(np.mean(x**2))) - np.exp(np.mean(np.cos(2 * np.pi * x))) + 20 + np.e
    ),
    "styblinski_tang": lambda x: np.sum(x**4 - 16 * x**2 + 5 * x) / 2 + 39.16616570377142 * x.size,
    "griewank": lambda x: np.sum(x**2) / 4000 - np.prod(np.cos(x / np.sqrt(np.arange(1, x.size + 1)))) + 1,
    "beale": lambda x: np.sum((np.array([1.5, 2.25, 2.625]) - x[0] + x[0] * x[1] ** np.arange(1, 4)) ** 2),
    "himmelblau": lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
}


def levy(x):
    w = 1 + (x - 1) / 4
    middle = np.sum((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2))
    return np.sin(np.pi * w[0]) ** 2 + middle + (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)


PUBLISHED["levy"] = levy
LEAST = {"styblinski_tang": -2.903534, "rosenbrock": 1.0, "levy": 1.0, "beale": (3.0, 0.5), "himmelblau": (3.0, 2.0)}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_published_form_and_minimum(function):
    f = FUNCTIONS[function]
    d = 2 if len(f.at) > 1 else 5
    points = np.random.default_rng(0).uniform(f.low, f.high, (50, d))
    values = jax.jit(jax.vmap(f.f))(jnp.asarray(points, jnp.float32))
    expected = [PUBLISHED[function](np.asarray(point, np.float32).astype(np.float64)) for point in points]
    np.testing.assert_allclose(values, expected, rtol=2e-4, atol=1e-4)
    assert (values > 0).all()
    least = jnp.broadcast_to(jnp.array(LEAST.get(function, 0.0), jnp.float32), (d,))
    np.testing.assert_allclose(jnp.broadcast_to(jnp.array(f.at), (d,)), least, rtol=1e-6)
    value, gradient = jax.jit(jax.value_and_grad(f.f))(jnp.broadcast_to(jnp.array(f.at), (d,)))
    assert 0 <= value < 1e-10
    np.testing.assert_allclose(gradient, 0, atol=2e-5)


def test_himmelblau_has_four_minima():
    for point in ((3, 2), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)):
        assert FUNCTIONS["himmelblau"].f(jnp.array(point, jnp.float32)) < 1e-8


@pytest.fixture(scope="module")
def task():
    return landscape(jax.random.key(5), "r", "rastrigin", 3, random_rotation(KEY, 3))


value_and_grad = jax.jit(lambda task, *a: jax.value_and_grad(task.loss, has_aux=True)(*a))


def test_shifted_turned_and_scaled(task):
    assert isinstance(task, Task)
    params, state = task.init(KEY)
    x = np.asarray(params["test_function"]["x"], np.float64)
    z = 5.12 * np.asarray(task.rotation, np.float64) @ (x - np.asarray(task.optimum, np.float64))
    assert np.all(np.abs(z) <= 5.1201)
    (loss, _), _ = value_and_grad(task, params, state, task.batch(KEY), KEY)
    # F: the mean of 10 + z² - 10 cos(2 π z) over [-5.12, 5.12], d times
    F = 3 * (10 + 5.12**2 / 3 - 10 * np.sin(2 * np.pi * 5.12) / (2 * np.pi * 5.12))
    assert task.scale == pytest.approx(F, rel=0.01)
    np.testing.assert_allclose(loss, PUBLISHED["rastrigin"](z) / task.scale, rtol=1e-4)
    best = {"test_function": {"x": task.optimum}}
    (loss, _), g = value_and_grad(task, best, {}, task.batch(KEY), KEY)
    assert loss == 0 and not np.any(g["test_function"]["x"]) and np.any(task.optimum != 0)
    assert np.all(np.abs(task.optimum) <= 1)


def test_losses_start_at_one(task):
    start = jax.jit(jax.vmap(lambda key: task.evaluate(*task.init(key), "train")))
    losses = np.asarray(start(jax.random.split(KEY, 1000)))
    assert abs(losses.mean() - task.initial_loss) < 5 * losses.std() / np.sqrt(1000) + 0.01


def test_noise_moves_the_argument(task):
    noisy = replace(task, noise=0.1, batch_size=4)
    batch = noisy.batch(KEY)
    params = noisy.init(KEY).params
    assert batch["noise"].shape == (4, 3)
    (loss, _), _ = value_and_grad(noisy, params, {}, batch, KEY)
    moved = [{"test_function": {"x": params["test_function"]["x"] + ξ}} for ξ in batch["noise"]]
    exact = [value_and_grad(task, p, {}, task.batch(KEY), KEY)[0][0] for p in moved]
    np.testing.assert_allclose(loss, np.mean(exact), rtol=1e-5)
    splits = [noisy.evaluate(params, {}, split) for split in ("train", "valid")]
    assert splits[0] != splits[1]
    np.testing.assert_allclose(*splits, rtol=0.1)
    assert len({float(task.evaluate(params, {}, split)) for split in ("train", "valid")}) == 1
    with pytest.raises(InputError, match=r"^split 'test': expected train or valid$"):
        task.evaluate(params, {}, "test")


@pytest.mark.parametrize(
    ("function", "dimension", "message"),
    [
        ("parabola", 2, r"^test function 'parabola': expected one of rosenbrock, "),
        ("rosenbrock", 1, r"^test function 'rosenbrock' of 1 numbers, expected 2 or more$"),
        ("beale", 3, r"^test function 'beale' of 3 numbers, expected 2$"),
    ],
)
def test_unfit_settings(function, dimension, message):
    with pytest.raises(InputError, match=message):
        landscape(KEY, "t", function, dimension)


def test_a_family_stays_in_its_ranges():
    family = Landscapes(functions=("beale", "ackley"), width=(3, 4))
    assert isinstance(family, TaskFamily)
    drawn = [family.sample(key) for key in jax.random.split(KEY, 8)]
    again = family.sample(jax.random.split(KEY, 8)[3])
    assert jax.tree.structure(again) == jax.tree.structure(drawn[3])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again, drawn[3]))
    assert len({task.name for task in drawn}) == 8
    assert {(task.function, task.dimensions["width"]) for task in drawn} == {("beale", 2), ("ackley", 3), ("ackley", 4)}
    assert {task.rotation is None for task in drawn} == {True, False}
    assert all(1e-3 <= task.noise <= 0.1 and task.batch_size in (1, 2, 4, 8, 16) for task in drawn)
