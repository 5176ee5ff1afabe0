import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.data import Dataset, Split, flatten_images
from tasks.errors import InputError
from tasks.families.image_conv import ImageConv, ImageConvs
from tasks.families.layers import ACTIVATIONS, NORMS
from tasks.model_task import ModelTask
from tasks.sources import Examples

KEY = jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def made_up(count=20, shape=(5, 6, 2), classes=3):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(size=(count, *shape)), jnp.float32)
    split = Split({"image": image, "label": jnp.asarray(rng.integers(0, classes, count), jnp.int32)})
    return Dataset(split, split, "made_up", classes)


def convolve(x, w, b, stride):
    """By definition, one output at a time, for kernels of 3x3 and "SAME" padding."""
    B, H, W, _ = x.shape
    P, Q = -(-H // stride), -(-W // stride)
    before = [max((n - 1) * stride + 3 - size, 0) // 2 for n, size in ((P, H), (Q, W))]
    y = np.zeros((B, P, Q, w.shape[-1])) + b
    for p in range(P):
        for q in range(Q):
            for i in range(3):
                for j in range(3):
                    r, c = p * stride + i - before[0], q * stride + j - before[1]
                    if 0 <= r < H and 0 <= c < W:
                        y[:, p, q] += x[:, r, c] @ w[i, j]
    return y


@pytest.mark.parametrize("norm", NORMS)
def test_loss_against_numpy(norm):
    task = ModelTask(Examples(made_up()), ImageConv((3, 4), 1, norm, "tanh", 3), "t", batch_size=7)
    params, state = jax.jit(task.init)(KEY)
    params = jax.tree.map(lambda a: a + 0.1, params)
    batch = task.batch(KEY)
    weights = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x = np.asarray(batch["image"], np.float64)
    for layer, stride in (("", 2), ("_1", 1)):
        x = np.tanh(convolve(x, weights[f"conv{layer}"]["w"], weights[f"conv{layer}"]["b"], stride))
        if norm != "none":
            axes = -1 if norm == "layer" else (0, 1, 2)
            x = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
            gains = weights[f"{norm}_norm{layer}"]
            x = x * gains["scale"] + gains["offset"]
    logits = x.mean((1, 2)) @ weights["linear"]["w"] + weights["linear"]["b"]
    expected = (np.log(np.exp(logits).sum(1)) - logits[np.arange(7), np.asarray(batch["label"])]).mean()
    np.testing.assert_allclose(jax.jit(task.loss)(params, state, batch, KEY)[0], expected, rtol=1e-4)
    assert set(state) == ({"batch_norm", "batch_norm_1"} if norm == "batch" else set())


def test_the_published_shape():
    task = ModelTask(
        Examples(made_up(shape=(32, 32, 3), classes=10)), ImageConv((32, 64, 64), 1, "none", "relu", 10), "t"
    )
    params, _ = jax.eval_shape(task.init, KEY)
    shapes = {module: layer["w"].shape for module, layer in params.items()}
    assert shapes == {"conv": (3, 3, 3, 32), "conv_1": (3, 3, 32, 64), "conv_2": (3, 3, 64, 64), "linear": (64, 10)}
    assert task.model.dimensions == {"width": 64, "depth": 3}
    assert task.model.initial_loss == pytest.approx(math.log(10))
    assert task.loss_cap == pytest.approx(1.5 * math.log(10))


def test_evaluation_uses_the_running_averages_and_training_does_not():
    task = ModelTask(Examples(made_up()), ImageConv((3,), 1, "batch", "relu", 3), "t")
    params, state = jax.jit(task.init)(KEY)
    moved = jax.tree.map(lambda a: a + 0.5, state)
    batch = task.batch(KEY)
    evaluate, loss = jax.jit(task.evaluate, static_argnums=2), jax.jit(task.loss)
    assert evaluate(params, state, "train") != evaluate(params, moved, "train")
    assert loss(params, state, batch, KEY)[0] == loss(params, moved, batch, KEY)[0]


def test_flattened_images_are_told_in_one_line():
    source = Examples(flatten_images(made_up()))
    message = r"^images of shape \(1, 60\), expected \(B, H, W, C\)"
    with pytest.raises(InputError, match=message):
        ModelTask(source, ImageConv((3,), 1, "none", "relu", 3), "t").init(KEY)
    with pytest.raises(InputError, match=message):
        ImageConvs().draw(KEY, source)


def test_draws_stay_in_their_ranges_and_reach_the_ends():
    space = ImageConvs(width=(2, 5), depth=(1, 3), strided=(0, 2))
    source = Examples(made_up())
    drawn = [space.draw(key, source) for key in jax.random.split(KEY, 40)]
    assert {c for model in drawn for c in model.channels} == {2, 3, 4, 5}
    assert {len(model.channels) for model in drawn} == {1, 2, 3}
    assert {model.strided for model in drawn} == {0, 1, 2}
    assert all(model.strided <= len(model.channels) for model in drawn)
    assert {model.norm for model in drawn} == set(NORMS)
    assert {model.activation for model in drawn} == set(ACTIVATIONS)
    assert any(len(set(model.channels)) > 1 for model in drawn)
