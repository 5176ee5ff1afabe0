import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.data import Dataset, Split
from tasks.errors import InputError
from tasks.families.mlp_mixer import MLPMixer, MLPMixers
from tasks.model_task import ModelTask
from tasks.sources import Examples

KEY = jax.random.key(0)


def made_up(height=4, width=6, classes=3):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(size=(20, height, width, 2)), jnp.float32)
    split = Split({"image": image, "label": jnp.asarray(rng.integers(0, classes, 20), jnp.int32)})
    return Examples(Dataset(split, split, "made_up", classes))


def linear(layer, x):
    return x @ layer["w"] + layer["b"]


def norm(layer, x):
    z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return z * layer["scale"] + layer["offset"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_loss_against_numpy():
    task = ModelTask(made_up(), MLPMixer(2, 5, 1, token_width=7, channel_width=9, classes=3), "t", batch_size=5)
    params, state = jax.jit(task.init)(KEY)
    params = jax.tree.map(lambda a: a + 0.1, params)
    batch = task.batch(KEY)
    W = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    assert [W[f"linear{i}"]["w"].shape for i in ("", "_1", "_2", "_3", "_4", "_5")] == [
        (8, 5),
        (6, 7),
        (7, 6),
        (5, 9),
        (9, 5),
        (5, 3),
    ]
    losses = []
    for image, label in zip(np.asarray(batch["image"], np.float64), np.asarray(batch["label"]), strict=True):
        x = np.array([image[i : i + 2, j : j + 2].ravel() for i in (0, 2) for j in (0, 2, 4)])
        x = linear(W["linear"], x)
        x = x + linear(W["linear_2"], gelu(linear(W["linear_1"], norm(W["layer_norm"], x).T))).T
        x = x + linear(W["linear_4"], gelu(linear(W["linear_3"], norm(W["layer_norm_1"], x))))
        logits = linear(W["linear_5"], norm(W["layer_norm_2"], x).mean(0))
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
    np.testing.assert_allclose(jax.jit(task.loss)(params, state, batch, KEY)[0], np.mean(losses), rtol=1e-4)
    assert state == {}


def test_levels_dimensions_and_unfit_images():
    model = MLPMixer(2, 12, 2, 4, 30, 10)
    assert model.initial_loss == math.log(10) and model.loss_cap == 1.5 * math.log(10)
    assert model.dimensions == {"width": 12, "depth": 2}
    with pytest.raises(InputError, match=r"^patches of 3x3, expected a size that divides images of 4x6$"):
        ModelTask(made_up(), MLPMixer(3, 12, 1, 4, 4, 3), "t").init(KEY)


def test_draws_stay_in_their_ranges_and_reach_the_ends():
    space, source = MLPMixers(width=(3, 5), depth=(1, 2), hidden=(2, 4), grid=(2, 4)), made_up(8, 8)
    drawn = [space.draw(key, source) for key in jax.random.split(KEY, 40)]
    assert {model.width for model in drawn} == {3, 4, 5}
    assert {model.depth for model in drawn} == {1, 2}
    assert {model.token_width for model in drawn} == {model.channel_width for model in drawn} == {2, 3, 4}
    assert any(model.token_width != model.channel_width for model in drawn)
    assert {model.patch for model in drawn} == {2, 4}
