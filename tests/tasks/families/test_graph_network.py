import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import KEY, check_training, numpy_loss, perturbed, random

from tasks.families.graph_network import GraphNetwork, GraphNetworks, communities
from tasks.families.layers import ACTIVATIONS
from tasks.model_task import ModelTask
from tasks.sources import Examples


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def data():
    return communities(nodes=8, kinds=3, features=4)


@pytest.fixture(scope="module")
def task(data):
    return ModelTask(Examples(data), GraphNetwork(5, 2, "tanh", 3), "t", batch_size=6)


@pytest.fixture(scope="module")
def loss(task):
    """Of a batch, with noise on every weight."""
    params, state = perturbed(task)
    return params, jax.jit(lambda batch: task.loss(params, state, batch, KEY)[0])


def test_graphs_are_those_of_the_model(data):
    graphs = {name: np.asarray(array) for name, array in data.train.fields.items()}
    a, label, real = graphs["adjacency"], graphs["label"], graphs["real"].astype(bool)
    assert np.array_equal(a, a.swapaxes(1, 2)) and set(np.unique(a)) == {0.0, 1.0}
    assert not a[:, np.arange(8), np.arange(8)].any()
    assert set(real.sum(axis=1)) == {4, 5, 6, 7, 8} and not (np.diff(graphs["real"], axis=1) > 0).any()
    assert not a[~real].any() and not graphs["x"][~real].any()
    pair = np.triu(np.ones((8, 8), bool), 1)[None] & real[:, :, None] & real[:, None]
    same = label[:, :, None] == label[:, None]
    np.testing.assert_allclose([a[pair & same].mean(), a[pair & ~same].mean()], [0.7, 0.1], atol=0.01)
    np.testing.assert_allclose(np.bincount(label[real]) / real.sum(), 1 / 3, atol=0.02)
    centres = np.stack([graphs["x"][real & (label == kind)].mean(axis=0) for kind in range(3)])
    np.testing.assert_allclose(centres @ centres.T, np.eye(3), atol=0.06)
    assert graphs["x"][real].var(axis=0).mean() == pytest.approx(1 + 2 / 3 / 4, abs=0.03)  # noise, and centres


def test_equal_seeds_give_equal_graphs_and_splits_are_disjoint(data):
    again, other = communities(8, 3, 4), communities(8, 3, 4, seed=1)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, data.train, again.train))
    assert not jnp.array_equal(data.train.fields["x"], other.train.fields["x"])
    rows = {name: {x.tobytes() for x in np.asarray(data.split(name).fields["x"])} for name in ("train", "valid")}
    assert {name: len(each) for name, each in rows.items()} == {"train": 4096, "valid": 1024}
    assert not rows["train"] & rows["valid"]


def test_loss_against_numpy(task, loss):
    """Node by node, over its list of neighbours; padding is left out altogether."""
    params, loss = loss
    batch = task.batch(KEY)
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), dict(params))
    layers = [p["linear" if i == 0 else f"linear_{i}"] for i in range(5)]
    logits, labels = [], []
    for x, a, label, real in zip(*(np.asarray(batch[f]) for f in ("x", "adjacency", "label", "real")), strict=True):
        nodes = range(int(real.sum()))
        h = [x[v].astype(np.float64) for v in nodes]
        for i in range(2):
            epsilon, norm = p["~"][f"epsilon_{i}"], p["layer_norm" if i == 0 else f"layer_norm_{i}"]
            messages = [(1 + epsilon) * h[v] + sum(h[u] for u in nodes if a[v, u]) for v in nodes]
            hidden = [m @ layers[2 * i]["w"] + layers[2 * i]["b"] for m in messages]
            hidden = [(y - y.mean()) / np.sqrt(y.var() + 1e-5) * norm["scale"] + norm["offset"] for y in hidden]
            h = [np.tanh(np.tanh(y) @ layers[2 * i + 1]["w"] + layers[2 * i + 1]["b"]) for y in hidden]
        logits += [y @ layers[4]["w"] + layers[4]["b"] for y in h]
        labels += [label[v] for v in nodes]
    np.testing.assert_allclose(loss(batch), numpy_loss(np.stack(logits), np.array(labels)), rtol=1e-5)


def test_the_order_of_nodes_and_what_padding_holds_do_not_matter(task, loss):
    _, loss = loss
    batch = task.batch(KEY)
    order = random(0).permutation(8)
    shuffled = {name: array[:, order] for name, array in batch.items()}
    shuffled["adjacency"] = shuffled["adjacency"][:, :, order]
    np.testing.assert_allclose(loss(shuffled), loss(batch), rtol=1e-5)
    padding = 1 - batch["real"]
    filled = {**batch, "x": batch["x"] + 9 * padding[:, :, None], "label": batch["label"] + padding.astype(int)}
    assert padding.any()
    np.testing.assert_allclose(loss(filled), loss(batch), rtol=1e-6)


def test_training(data):
    check_training(ModelTask(Examples(data), GraphNetwork(12, 2, "relu", 3), "t", batch_size=64), 0.7)


def test_the_space_stays_in_its_ranges_and_reaches_their_ends(data):
    space = GraphNetworks(width=(2, 5), depth=(1, 3))
    drawn = [space.draw(key, Examples(data)) for key in jax.random.split(KEY, 60)]
    assert {model.width for model in drawn} == {2, 3, 4, 5}
    assert {model.depth for model in drawn} == {1, 2, 3}
    assert {model.activation for model in drawn} == set(ACTIVATIONS)
    assert drawn[0].dimensions == {"width": drawn[0].width, "depth": drawn[0].depth}
    assert drawn[0].loss_cap == pytest.approx(1.5 * np.log(3))
