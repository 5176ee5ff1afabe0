import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import KEY, check_training
from scipy.stats import qmc

from tasks.errors import InputError
from tasks.families.pinn import EQUATIONS, PINN, Box, PINNs, box, mismatch
from tasks.model_task import ModelTask


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def source():
    return box()


@pytest.fixture(scope="module")
def points(source):
    return source.batch(KEY, 200)


def edges(u, points):
    """The mean squares at t = 0 and at both ends."""
    x, t = np.asarray(points["initial"]), np.asarray(points["boundary"])
    start = u(np.zeros_like(x), x) + np.sin(np.pi * x)
    return np.mean(start**2) + (np.mean(u(t, -1 + 0 * t) ** 2) + np.mean(u(t, 1 + 0 * t) ** 2)) / 2


@pytest.mark.parametrize("nu", [0.02, 0.3])
def test_the_solution_of_the_heat_equation_has_no_loss(points, nu):
    u = lambda t, x: -jnp.exp(-nu * np.pi**2 * t) * jnp.sin(np.pi * x)
    assert mismatch(u, points, "heat", nu) < 1e-10
    assert mismatch(u, points, "heat", 2 * nu) > 1e-2
    assert mismatch(u, points, "burgers", nu) > 1e-2
    assert mismatch(lambda t, x: 0 * x, points, "heat", nu) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("nu", [0.05, 0.5])
def test_a_travelling_wave_solves_burgers_equation(points, nu):
    """u = c - a tanh(a (x - c t) / (2 nu)): only the edges are left of its loss."""
    wave = lambda xp: lambda t, x: 0.3 - 0.5 * xp.tanh(0.5 * (x - 0.3 * t) / (2 * nu))
    np.testing.assert_allclose(mismatch(wave(jnp), points, "burgers", nu), edges(wave(np), points), rtol=1e-4)
    assert mismatch(wave(jnp), points, "heat", nu) > edges(wave(np), points) + 1e-3


def test_residuals_of_a_polynomial(points):
    """u = t x^2: u_t = x^2, u u_x = 2 t^2 x^3, u_xx = 2 t."""
    u = lambda t, x: t * x**2
    t, x = np.asarray(points["t"], np.float64), np.asarray(points["x"], np.float64)
    for equation, residual in {"heat": x**2 - 0.4 * t, "burgers": x**2 + 2 * t**2 * x**3 - 0.4 * t}.items():
        expected = np.mean(residual**2) + edges(u, points)
        np.testing.assert_allclose(mismatch(u, points, equation, 0.2), expected, rtol=1e-5)


def test_the_loss_is_the_mismatch_of_the_network(source, points):
    task = ModelTask(source, PINN("burgers", 0.05, (4,), "tanh"), "t")
    params, state = jax.jit(task.init)(KEY)
    first, last = params.values()
    u = lambda t, x: jnp.tanh(jnp.stack([t, x], axis=1) @ first["w"] + first["b"][None]) @ last["w"][:, 0]
    expected = mismatch(u, points, "burgers", 0.05)
    np.testing.assert_allclose(jax.jit(task.loss)(params, state, points, KEY)[0], expected, rtol=1e-4)


def test_points_fill_the_box_and_those_of_evaluations_are_haltons(source):
    batch = source.batch(KEY, 5000)
    for name, (low, high) in {"t": (0, 1), "x": (-1, 1), "initial": (-1, 1), "boundary": (0, 1)}.items():
        counts = np.histogram(batch[name], bins=10, range=(low, high))[0]
        assert counts.sum() == 5000 and abs(counts - 500).max() < 100
    halton = qmc.Halton(4, scramble=False).random(2 * 2048 + 1)[1:]
    for split, rows in {"train": halton[:2048], "valid": halton[2048:]}.items():
        held = source.held(split)
        expected = {"t": rows[:, 0], "x": 2 * rows[:, 1] - 1, "initial": 2 * rows[:, 2] - 1, "boundary": rows[:, 3]}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), held, expected)


def test_errors_are_told_in_one_line(source):
    with pytest.raises(InputError, match=r"^split 'test': expected train or valid$"):
        source.held("test")
    with pytest.raises(InputError, match=r"^source 'box' has no classes, expected a model of an equation$"):
        _ = source.classes


@pytest.mark.parametrize("equation", EQUATIONS)
def test_training(source, equation):
    model = PINN(equation, 0.05, (16, 16), "tanh")
    check_training(ModelTask(source, model, "t", batch_size=64), 0.7, steps=60, copies=40)


@pytest.mark.parametrize(("widths", "activation"), [((16, 16), "tanh"), ((32, 32, 32), "silu")])
def test_initial_loss(source, widths, activation):
    model = PINN("burgers", 0.1, widths, activation)
    task = ModelTask(source, model, "t", batch_size=64)
    loss = lambda key: task.loss(*task.init(key), task.batch(key), key)[0]
    losses = jax.jit(jax.vmap(loss))(jax.random.split(KEY, 256))
    np.testing.assert_allclose(losses.mean(), model.initial_loss, rtol=0.25)
    assert model.dimensions == {"width": max(widths), "depth": len(widths)}
    assert model.loss_cap == 1.5 * model.initial_loss


def test_the_space_stays_in_its_ranges_and_reaches_their_ends(source):
    space = PINNs(width=(2, 5), depth=(1, 3), diffusivity=(0.01, 1.0))
    drawn = [space.draw(key, source) for key in jax.random.split(KEY, 60)]
    assert {w for model in drawn for w in model.widths} == {2, 3, 4, 5}
    assert {len(model.widths) for model in drawn} == {1, 2, 3}
    assert {model.activation for model in drawn} == {"tanh", "gelu", "silu"}
    assert {model.equation for model in drawn} == set(EQUATIONS)
    logs = np.log10([model.diffusivity for model in drawn])
    assert -2.001 < logs.min() < -1.8 and -0.2 < logs.max() < 0.001
    assert isinstance(source, Box) and hash(drawn[0]) == hash(PINN(**vars(drawn[0])))
