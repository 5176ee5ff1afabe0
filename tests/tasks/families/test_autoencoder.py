import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.data import Dataset, Split
from tasks.families.autoencoder import Autoencoder, Autoencoders, half_loss
from tasks.families.layers import ACTIVATIONS
from tasks.model_task import ModelTask
from tasks.sources import HELD, Examples

KEY = jax.random.key(0)


def source(image):
    split = Split({"image": jnp.asarray(image, jnp.float32)})
    return Examples(Dataset(split, split, "made_up"))


IMAGE = np.random.default_rng(0).beta(0.3, 0.6, (40, 3, 4, 2))


def test_loss_against_numpy():
    task = ModelTask(source(IMAGE), Autoencoder((5,), "tanh", 0.1), "t", batch_size=6)
    params, state = jax.jit(task.init)(KEY)
    batch = task.batch(KEY)
    first, last = (jax.tree.map(lambda a: np.asarray(a, np.float64) + 0.1, layer) for layer in params.values())
    x = np.asarray(batch["image"]).reshape(6, -1)
    logits = np.tanh(x @ first["w"] + first["b"]) @ last["w"] + last["b"]
    moved = jax.tree.map(lambda a: a + 0.1, params)
    expected = np.square(x - 1 / (1 + np.exp(-logits))).mean()
    np.testing.assert_allclose(jax.jit(task.loss)(moved, state, batch, KEY)[0], expected, rtol=1e-5)
    assert state == {}


def test_the_stated_initial_loss_is_that_of_a_constant_half():
    assert half_loss(source(np.full((5, 3, 3, 1), 0.9))) == 0.16
    assert half_loss(source(np.eye(4).reshape(1, 4, 4, 1))) == 0.25
    expected = np.square(IMAGE - 0.5).mean()
    assert half_loss(source(IMAGE)) == pytest.approx(expected, rel=5e-3)
    beyond = np.concatenate([np.full((HELD, 2), 0.5), np.ones((HELD, 2))])  # the head alone counts
    assert half_loss(source(beyond)) == 0.0


def test_the_stated_initial_loss_is_met():
    data = source(IMAGE)
    task = ModelTask(data, Autoencoder((32, 8, 32), "relu", half_loss(data)), "t")
    start = jax.jit(jax.vmap(lambda key: task.evaluate(*task.init(key), "train")))
    losses = start(jax.random.split(KEY, 5))
    np.testing.assert_allclose(np.mean(losses), task.model.initial_loss, rtol=0.1)
    assert task.loss_cap == 1.5 * task.model.initial_loss


def test_the_published_shape():
    data = source(np.zeros((2, 28, 28, 1)))
    task = ModelTask(data, Autoencoder((128, 32, 128), "relu", half_loss(data)), "t")
    params, _ = jax.eval_shape(task.init, KEY)
    assert [layer["w"].shape for layer in params.values()] == [(784, 128), (128, 32), (32, 128), (128, 784)]
    assert task.model.dimensions == {"width": 128, "depth": 3}


def test_draws_stay_in_their_ranges_and_reach_the_ends():
    space, data = Autoencoders(width=(2, 5), depth=(1, 3)), source(IMAGE)
    drawn = [space.draw(key, data) for key in jax.random.split(KEY, 40)]
    assert {w for model in drawn for w in model.widths} == {2, 3, 4, 5}
    assert {len(model.widths) for model in drawn} == {1, 2, 3}
    assert {model.activation for model in drawn} == set(ACTIVATIONS)
    assert {model.initial_loss for model in drawn} == {half_loss(data)}
