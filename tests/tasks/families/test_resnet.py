import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.data import Dataset, Split
from tasks.families.resnet import ResNet, ResNets
from tasks.model_task import ModelTask
from tasks.sources import Examples

KEY = jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def made_up(count=20, side=8, classes=3):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(size=(count, side, side, 2)), jnp.float32)
    split = Split({"image": image, "label": jnp.asarray(rng.integers(0, classes, count), jnp.int32)})
    return Examples(Dataset(split, split, "made_up", classes))


def convolve(x, layer, stride=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, layer["w"], (stride, stride), "SAME", dimension_numbers=numbers)
    return y + layer["b"][None, None, None]


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_loss_against_the_equations(norm):
    task = ModelTask(made_up(), ResNet((3, 5), (2, 1), 2, norm, "tanh", 3), "t", batch_size=7)
    params, state = jax.jit(task.init)(KEY)
    params = jax.tree.map(lambda a: a + 0.05, params)
    batch = task.batch(KEY)
    modules = [f"{norm}_norm", *(f"{norm}_norm_{i}" for i in range(1, 7))]
    gains, convs = iter(modules), iter(["conv", *(f"conv_{i}" for i in range(1, 8))])

    def f(x):
        axes = -1 if norm == "layer" else (0, 1, 2)
        z = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)
        layer = params[next(gains)]
        return jnp.tanh(z * layer["scale"][None, None, None] + layer["offset"][None, None, None])

    def conv(x, stride=1):
        return convolve(x, params[next(convs)], stride)

    x = conv(batch["image"], 2)
    for _ in range(2):
        x = x + conv(f(conv(f(x))))
    h = f(x)
    shortcut = conv(h, 2)
    x = shortcut + conv(f(conv(h, 2)))
    logits = f(x).mean((1, 2)) @ params["linear"]["w"] + params["linear"]["b"][None]
    expected = -jax.nn.log_softmax(logits)[jnp.arange(7), batch["label"]].mean()
    assert next(gains, None) is None and next(convs, None) is None
    np.testing.assert_allclose(jax.jit(task.loss)(params, state, batch, KEY)[0], expected, rtol=1e-4)
    assert set(state) == (set(modules) if norm == "batch" else set())


def test_a_block_with_zero_weights_passes_its_input_on():
    """What makes the residual network trainable: without weights in the branch it is the shorter network."""
    one, two = (ModelTask(made_up(), ResNet((4,), (blocks,), 1, "batch", "relu", 3), "t") for blocks in (1, 2))
    short, state_short = jax.jit(one.init)(KEY)
    long, state = jax.jit(two.init)(KEY)
    zero = jax.tree.map(jnp.zeros_like, {"conv_3": long["conv_3"], "conv_4": long["conv_4"]})
    batch = one.batch(KEY)
    losses = (
        jax.jit(two.loss)({**long, **short, **zero}, state, batch, KEY)[0],
        jax.jit(one.loss)(short, state_short, batch, KEY)[0],
    )
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_evaluation_uses_averages_that_approach_the_statistics_of_the_data():
    task = ModelTask(made_up(), ResNet((4,), (1,), 1, "batch", "relu", 3), "t")
    params, state = jax.jit(task.init)(KEY)
    whole = task.source.held("train")

    @jax.jit
    def steps(state):
        return jax.lax.fori_loop(0, 200, lambda _, state: task.loss(params, state, whole, KEY)[1], state)

    before, after = (jax.jit(task.evaluate, static_argnums=2)(params, s, "train") for s in (state, steps(state)))
    in_training = jax.jit(task.loss)(params, state, whole, KEY)[0]
    np.testing.assert_allclose(after, in_training, rtol=1e-4)
    assert abs(before - in_training) > 1e-3


def test_dimensions_and_levels():
    model = ResNet((8, 16), (1, 2), 1, "batch", "relu", 7)
    assert model.dimensions == {"width": 16, "depth": 3}
    assert model.initial_loss == pytest.approx(math.log(7)) and model.loss_cap == pytest.approx(1.5 * math.log(7))


def test_draws_stay_in_their_ranges_and_reach_the_ends():
    space, source = ResNets(width=(4, 9), depth=(1, 4), groups=3), made_up()
    drawn = [space.draw(key, source) for key in jax.random.split(KEY, 40)]
    assert {model.dimensions["width"] for model in drawn} == set(range(4, 10))
    assert {model.dimensions["depth"] for model in drawn} == {1, 2, 3, 4}
    assert {len(model.channels) for model in drawn} == {1, 2, 3}
    assert all(len(model.channels) == len(model.blocks) and min(model.blocks) >= 1 for model in drawn)
    growing = {model.channels for model in drawn if len(set(model.channels)) > 1}
    assert all(a == b // 2 for channels in growing for a, b in itertools.pairwise(channels))
    assert growing and any(len(model.channels) > 1 and len(set(model.channels)) == 1 for model in drawn)
    assert {model.norm for model in drawn} == {"batch", "layer"}
    assert {model.stem_stride for model in drawn} == {1}
    assert space.draw(KEY, made_up(side=9)).stem_stride == 2
