import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.data import Dataset, Split
from tasks.errors import InputError
from tasks.families.vit import ViT, ViTs
from tasks.model_task import ModelTask
from tasks.sources import Examples

KEY = jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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


def attend(q, k, v):
    """One head of one image: T queries in turn."""
    rows = []
    for query in q:
        odds = np.exp(k @ query / np.sqrt(len(query)))
        rows.append(odds @ v / odds.sum())
    return np.array(rows)


def test_loss_against_numpy():
    task = ModelTask(made_up(), ViT(patch=2, width=6, depth=1, heads=2, expansion=2, classes=3), "t", batch_size=5)
    params, state = jax.jit(task.init)(KEY)
    params = jax.tree.map(lambda a: a + 0.1, params)
    batch = task.batch(KEY)
    W = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    assert {name: layer["w"].shape for name, layer in W.items() if "w" in layer} == {
        "linear": (8, 6),
        "qkv": (6, 18),
        "attention_output": (6, 6),
        "linear_1": (6, 12),
        "linear_2": (12, 6),
        "linear_3": (6, 3),
    }
    losses = []
    for image, label in zip(np.asarray(batch["image"], np.float64), np.asarray(batch["label"]), strict=True):
        x = np.array([image[i : i + 2, j : j + 2].ravel() for i in (0, 2) for j in (0, 2, 4)])
        x = linear(W["linear"], x) + W["~"]["positions"]
        q, k, v = np.split(linear(W["qkv"], norm(W["layer_norm"], x)), 3, axis=1)
        heads = [attend(q[:, s], k[:, s], v[:, s]) for s in (slice(0, 3), slice(3, 6))]
        x = x + linear(W["attention_output"], np.concatenate(heads, axis=1))
        x = x + linear(W["linear_2"], gelu(linear(W["linear_1"], norm(W["layer_norm_1"], x))))
        logits = linear(W["linear_3"], norm(W["layer_norm_2"], x).mean(0))
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
    np.testing.assert_allclose(jax.jit(task.loss)(params, state, batch, KEY)[0], np.mean(losses), rtol=1e-4)
    assert state == {}


def test_patches_count_by_their_position():
    """Without positions the mean over tokens could not tell where a patch lies."""
    task = ModelTask(made_up(), ViT(2, 6, 1, 2, 2, 3), "t", batch_size=5)
    params, state = jax.jit(task.init)(KEY)
    batch = task.batch(KEY)
    turned = {**batch, "image": batch["image"][:, :, [4, 5, 0, 1, 2, 3]]}
    compiled = jax.jit(task.loss)
    loss = lambda params, batch: float(compiled(params, state, batch, KEY)[0])
    nowhere = {**params, "~": jax.tree.map(jnp.zeros_like, params["~"])}
    assert loss(nowhere, turned) == pytest.approx(loss(nowhere, batch), rel=1e-5)
    assert loss(params, turned) != pytest.approx(loss(params, batch), rel=1e-5)


def test_levels_dimensions_and_unfit_images():
    model = ViT(2, 12, 2, 4, 1, 10)
    assert model.initial_loss == math.log(10) and model.loss_cap == 1.5 * math.log(10)
    assert model.dimensions == {"width": 12, "depth": 2}
    with pytest.raises(InputError, match=r"^patches of 3x3, expected a size that divides images of 4x6$"):
        ModelTask(made_up(), ViT(3, 12, 1, 4, 1, 3), "t").init(KEY)


def test_draws_stay_in_their_ranges_and_reach_the_ends():
    space, source = ViTs(width=(8, 16), depth=(1, 2), heads=(1, 4), expansion=(1, 4), grid=(2, 4)), made_up(8, 8)
    drawn = [space.draw(key, source) for key in jax.random.split(KEY, 40)]
    widths = {model.width for model in drawn}
    assert min(widths) == 8 and max(widths) == 16
    assert all(model.width % model.heads == 0 for model in drawn)
    assert {model.depth for model in drawn} == {1, 2}
    assert {model.heads for model in drawn} == {model.expansion for model in drawn} == {1, 2, 4}
    assert {model.patch for model in drawn} == {2, 4}
    assert all(model.classes == 3 for model in drawn)
