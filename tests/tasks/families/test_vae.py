import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from tasks.data import Dataset, Split
from tasks.families.layers import ACTIVATIONS
from tasks.families.vae import VAE, VAEs, gaussian_kl
from tasks.model_task import ModelTask
from tasks.sources import Examples

KEY = jax.random.key(0)


def made_up(count=40, shape=(3, 4, 1)):
    split = Split({"image": jnp.asarray(np.random.default_rng(0).uniform(size=(count, *shape)), jnp.float32)})
    return Examples(Dataset(split, split, "made_up"))


def test_kl_against_an_integral():
    μ, σ = np.array([[0.0, 0.7], [-1.5, 2.0]]), np.array([[1.0, 0.2], [2.5, 0.6]])
    grid = np.linspace(-30, 30, 200_001)
    q = stats.norm.pdf(grid[:, None, None], μ, σ)
    log_ratio = stats.norm.logpdf(grid[:, None, None], μ, σ) - stats.norm.logpdf(grid)[:, None, None]
    expected = np.trapezoid(q * log_ratio, grid, axis=0).sum(-1)
    got = gaussian_kl(jnp.asarray(μ, jnp.float32), jnp.asarray(np.log(σ), jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_loss_against_numpy():
    task = ModelTask(made_up(), VAE((6,), 2, "tanh"), "t", batch_size=5)
    params, state = jax.jit(task.init)(KEY)
    params = jax.tree.map(lambda a: a + 0.1, params)
    batch, noise = task.batch(KEY), jax.random.key(3)
    ε = np.asarray(jax.random.normal(hk.transform(hk.next_rng_key).apply({}, noise), (5, 2)))
    W = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def mlp(name, x):
        first, last = W[f"{name}/~/linear_0"], W[f"{name}/~/linear_1"]
        return np.tanh(x @ first["w"] + first["b"]) @ last["w"] + last["b"]

    x = np.asarray(batch["image"], np.float64).reshape(5, 12)
    μ, ln_σ = np.split(mlp("encoder", x), 2, axis=1)
    p = 1 / (1 + np.exp(-mlp("decoder", μ + np.exp(ln_σ) * ε)))
    H = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1)
    kl = (np.log(1 / np.exp(ln_σ)) + (np.exp(ln_σ) ** 2 + μ**2) / 2 - 0.5).sum(1)
    np.testing.assert_allclose(jax.jit(task.loss)(params, state, batch, noise)[0], (H + kl).mean() / 12, rtol=1e-5)
    assert state == {}


def test_noise_comes_from_the_key_in_training_and_is_fixed_in_evaluation():
    task = ModelTask(made_up(), VAE((6,), 2, "tanh"), "t")
    params, state = jax.jit(task.init)(KEY)
    batch = task.batch(KEY)
    loss, evaluate = jax.jit(task.loss), jax.jit(lambda: task.evaluate(params, state, "valid"))
    a, again, b = (loss(params, state, batch, jax.random.key(seed))[0] for seed in (0, 0, 1))
    assert a == again != b
    assert evaluate() == evaluate()


def test_initial_loss_cap_dimensions_and_shapes():
    task = ModelTask(made_up(shape=(8, 8, 1)), VAE((32, 16), 8, "relu"), "t")
    start = jax.jit(jax.vmap(lambda key: task.evaluate(*task.init(key), "train")))
    losses = start(jax.random.split(KEY, 5))
    np.testing.assert_allclose(np.mean(losses), math.log(2), rtol=0.15)
    assert (task.model.initial_loss, task.loss_cap) == (math.log(2), 1.5 * math.log(2))
    assert task.model.dimensions == {"width": 32, "depth": 2}
    params, _ = jax.eval_shape(task.init, KEY)
    shapes = [params[f"{half}/~/linear_{i}"]["w"].shape for half in ("encoder", "decoder") for i in range(3)]
    assert shapes == [(64, 32), (32, 16), (16, 16), (8, 16), (16, 32), (32, 64)]


def test_draws_stay_in_their_ranges_and_reach_the_ends():
    space, data = VAEs(width=(2, 5), depth=(1, 2), latents=(2, 4)), made_up()
    drawn = [space.draw(key, data) for key in jax.random.split(KEY, 40)]
    assert {w for model in drawn for w in model.widths} == {2, 3, 4, 5}
    assert {len(model.widths) for model in drawn} == {1, 2}
    assert {model.latents for model in drawn} == {2, 3, 4}
    assert {model.activation for model in drawn} == set(ACTIVATIONS)
