import math

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from tasks import suites
from tasks.data import Dataset, Split, load
from tasks.families.image_mlp import ImageMLP, ImageMLPs
from tasks.families.layers import ACTIVATIONS
from tasks.model_task import ModelTask
from tasks.sources import Examples

KEY = jax.random.key(0)


def made_up(count: int = 100, pixels: int = 5, classes: int = 3) -> Examples:
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(size=(count, pixels)), jnp.float32)
    split = Split({"image": image, "label": jnp.asarray(rng.integers(0, classes, count), jnp.int32)})
    return Examples(Dataset(split, split, "made_up", classes))


def test_the_published_shape():
    params, state = jax.eval_shape(suites.task("digits_mlp_32").init, KEY)
    shapes = {module: {name: w.shape for name, w in weights.items()} for module, weights in params.items()}
    assert list(shapes.values()) == [{"w": (64, 32), "b": (32,)}, {"w": (32, 10), "b": (10,)}]
    assert state == {}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_against_numpy(activation):
    task = ModelTask(made_up(), ImageMLP((7,), activation, 3), "made_up_7", batch_size=11)
    params, state = jax.jit(task.init)(KEY)
    batch = task.batch(KEY)
    first, last = params.values()
    hidden = np.asarray(ACTIVATIONS[activation](batch["image"] @ first["w"] + first["b"][None]), np.float64)
    logits = hidden @ np.asarray(last["w"]) + np.asarray(last["b"])
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(11), np.asarray(batch["label"])])
    np.testing.assert_allclose(jax.jit(task.loss)(params, state, batch, KEY)[0], expected, rtol=1e-5)


def test_gradients_are_right():
    task = ModelTask(made_up(), ImageMLP((7,), "tanh", 3), "t", batch_size=4)
    params, state = jax.jit(task.init)(KEY)
    batch = task.batch(KEY)
    loss = jax.jit(lambda p: task.loss(p, state, batch, KEY)[0])
    jax.test_util.check_grads(loss, (params,), 1, modes=["rev"], rtol=0.02)


def test_images_are_flattened_where_they_are_not():
    params, _ = jax.eval_shape(ModelTask(Examples(load("sklearn_digits")), ImageMLP((), "relu", 10), "t").init, KEY)
    assert [layer["w"].shape for layer in params.values()] == [(64, 10)]


def test_levels_and_dimensions():
    model = ImageMLP((9, 4), "relu", 7)
    assert (model.initial_loss, model.loss_cap) == (math.log(7), 1.5 * math.log(7))
    assert model.dimensions == {"width": 9, "depth": 2}
    assert ImageMLP((), "relu", 7).dimensions == {"width": 0, "depth": 0}


def test_draws_stay_in_their_ranges_and_reach_the_ends():
    space, source = ImageMLPs(width=(2, 5), depth=(1, 3)), made_up()
    drawn = [space.draw(key, source) for key in jax.random.split(KEY, 40)]
    assert {w for model in drawn for w in model.widths} == {2, 3, 4, 5}
    assert {len(model.widths) for model in drawn} == {1, 2, 3}
    assert any(len(set(model.widths)) > 1 for model in drawn)
    assert {model.activation for model in drawn} == set(ACTIVATIONS)
    assert {model.classes for model in drawn} == {3}
