import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import KEY, check_training, examples, numpy_loss, perturbed, random

from tasks.families.layers import ACTIVATIONS
from tasks.families.tabular_mlp import TabularClassifier, TabularClassifiers, TabularRegressor, TabularRegressors
from tasks.model_task import ModelTask


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def rows(targets: tuple[int, ...] = (), count: int = 600):
    """Six standard normal features; the class is the greatest of three; the targets are products of two."""
    x = random(0).normal(size=(count, 6))
    y = x[:, 0] * x[:, 1] if not targets else x[:, : targets[0]] * x[:, 1:2]
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    return examples(3, x=x.astype(np.float32), y=y.astype(np.float32), label=x[:, :3].argmax(1).astype(np.int32))


@pytest.mark.parametrize("targets", [(), (2,)])
def test_losses_against_numpy(targets):
    source = rows(targets)
    batch = source.batch(KEY, 9)
    losses, outputs = [], []
    for model in (TabularClassifier((4, 5), "tanh", 3), TabularRegressor((4, 5), "tanh")):
        task = ModelTask(source, model, "t", batch_size=9)
        params, state = perturbed(task)
        losses.append(jax.jit(task.loss)(params, state, batch, KEY)[0])
        h = np.asarray(batch["x"], np.float64)
        *hidden, last = params.values()
        for layer in hidden:
            h = np.tanh(h @ np.asarray(layer["w"]) + np.asarray(layer["b"]))
        outputs.append(h @ np.asarray(last["w"]) + np.asarray(last["b"]))
    np.testing.assert_allclose(losses[0], numpy_loss(outputs[0], batch["label"]), rtol=1e-5)
    squares = (outputs[1] - np.asarray(batch["y"]).reshape(9, -1)) ** 2
    assert squares.shape == (9, *(targets or (1,)))
    np.testing.assert_allclose(losses[1], squares.mean(), rtol=1e-5)


@pytest.mark.parametrize("model", [TabularClassifier((16,), "relu", 3), TabularRegressor((16, 16), "silu")])
def test_training(model):
    check_training(ModelTask(rows(), model, "t", batch_size=64), 0.7, rate=2e-2, steps=100)


@pytest.mark.parametrize(("widths", "activation"), [((), "relu"), ((8,), "silu"), ((32, 32, 32), "tanh")])
def test_initial_loss(widths, activation):
    keys = jax.random.split(KEY, 32)
    for model in (TabularClassifier(widths, activation, 3), TabularRegressor(widths, activation)):
        task = ModelTask(rows(), model, "t")
        losses = jax.jit(jax.vmap(lambda key, task=task: task.evaluate(*task.init(key), "train")))(keys)
        np.testing.assert_allclose(losses.mean(), model.initial_loss, rtol=0.15)
        assert model.initial_loss < model.loss_cap <= 1.5 * model.initial_loss
        assert model.dimensions == {"width": max(widths, default=0), "depth": len(widths)}


def test_spaces_stay_in_their_ranges_and_reach_their_ends():
    ranges = dict(width=(2, 5), depth=(1, 3))
    for space in (TabularClassifiers(**ranges), TabularRegressors(**ranges)):
        drawn = [space.draw(key, rows()) for key in jax.random.split(KEY, 60)]
        assert {w for model in drawn for w in model.widths} == {2, 3, 4, 5}
        assert {len(model.widths) for model in drawn} == {1, 2, 3}
        assert {model.activation for model in drawn} == set(ACTIVATIONS)
    x = jnp.zeros((8, 2))
    assert TabularRegressors().draw(KEY, examples(x=x, y=x)).widths  # data without labels will do
