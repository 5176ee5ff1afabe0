import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import KEY, check_training, examples, perturbed, random

from tasks.families.diffusion import FREQUENCIES, SCHEDULES, Diffusion, Diffusions, cosine, embed, linear
from tasks.families.layers import ACTIVATIONS
from tasks.model_task import ModelTask


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def images(count: int = 400):
    """A square in one of nine places on a grey ground."""
    image = np.full((count, 4, 4, 1), 0.3, np.float32)
    for picture, (i, j) in zip(image, random(0).integers(0, 3, (count, 2)), strict=True):
        picture[i : i + 2, j : j + 2] = 1.0
    return examples(image=image)


def test_linear_schedule_is_the_published_one_of_a_thousand_steps():
    published = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(linear(jnp.arange(1, 1001) / 1000), published, atol=2e-3)


def test_cosine_schedule():
    t = np.linspace(0, 1, 11)
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(cosine(jnp.asarray(t, jnp.float32)), f / f[0], atol=1e-6)


def test_times_are_embedded_at_rates_of_a_thousand_and_less():
    t = np.linspace(0, 1, 7)
    rates = [1000, 1000 / 10**0.5, 100, 10**1.5, 10, 10**0.5, 1, 10**-0.5]
    expected = [np.sqrt(2) * f(t * rate) for f in (np.sin, np.cos) for rate in rates]
    assert len(expected) == 2 * FREQUENCIES
    np.testing.assert_allclose(embed(jnp.asarray(t, jnp.float32)), np.stack(expected, axis=1), atol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("field", ["image", "x"])
def test_loss_against_numpy(schedule, field):
    x = random(1).normal(size=(50, 16)).astype(np.float32)
    source = images() if field == "image" else examples(x=x)
    task = ModelTask(source, Diffusion((5,), "tanh", schedule), "t", batch_size=9)
    params, state = perturbed(task)
    batch = task.batch(KEY)
    clean = np.asarray(batch[field], np.float64).reshape(9, 16)
    if field == "image":
        assert clean.min() >= 0 and clean.max() == 1
        clean = 2 * clean - 1
    keys = hk.PRNGSequence(jax.random.key(3))
    t, noise = jax.random.uniform(next(keys), (9,)), np.asarray(jax.random.normal(next(keys), (9, 16)))
    signal = np.asarray(SCHEDULES[schedule](t), np.float64)[:, None]
    noisy = np.sqrt(signal) * clean + np.sqrt(1 - signal) * noise
    first, last = ({name: np.asarray(w) for name, w in layer.items()} for layer in params.values())
    hidden = np.tanh(np.concatenate([noisy, embed(t)], axis=1) @ first["w"] + first["b"])
    expected = np.mean((noise - hidden @ last["w"] - last["b"]) ** 2)
    loss = jax.jit(task.loss)
    np.testing.assert_allclose(loss(params, state, batch, jax.random.key(3))[0], expected, rtol=1e-4)
    assert loss(params, state, batch, jax.random.key(4))[0] != pytest.approx(expected, rel=1e-3)


def test_a_signal_rounded_above_one_is_no_nan(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "linear", lambda t: jnp.full_like(t, 1 + 1e-7))
    task = ModelTask(images(), Diffusion((5,), "tanh", "linear"), "t")
    assert jnp.isfinite(task.evaluate(*task.init(KEY), "train"))


def test_training_and_an_evaluation_that_draws_the_same_noise():
    task = ModelTask(images(), Diffusion((32,), "gelu", "cosine"), "t", batch_size=64)
    check_training(task, 0.75, steps=100)
    params, state = jax.jit(task.init)(KEY)
    assert task.evaluate(params, state, "train") == task.evaluate(params, state, "train")


@pytest.mark.parametrize(("widths", "activation"), [((), "relu"), ((8,), "silu"), ((32, 32, 32), "tanh")])
def test_initial_loss(widths, activation):
    model = Diffusion(widths, activation, "linear")
    task = ModelTask(images(), model, "t")
    losses = jax.jit(jax.vmap(lambda key: task.evaluate(*task.init(key), "train")))(jax.random.split(KEY, 8))
    np.testing.assert_allclose(losses.mean(), model.initial_loss, rtol=0.12)
    assert model.dimensions == {"width": max(widths, default=0), "depth": len(widths)}
    assert model.loss_cap == 1.5 * model.initial_loss


def test_the_space_stays_in_its_ranges_and_reaches_their_ends():
    space = Diffusions(width=(2, 5), depth=(1, 3))
    drawn = [space.draw(key, images()) for key in jax.random.split(KEY, 60)]
    assert {w for model in drawn for w in model.widths} == {2, 3, 4, 5}
    assert {len(model.widths) for model in drawn} == {1, 2, 3}
    assert {model.activation for model in drawn} == set(ACTIVATIONS)
    assert {model.schedule for model in drawn} == set(SCHEDULES)
