import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import KEY, check_training, numpy_loss, perturbed, walk

from tasks.errors import InputError
from tasks.families.rnn_lm import CORES, RNNLM, RNNLMs
from tasks.model_task import ModelTask


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def vanilla(p, name, x, h):
    i, r = p[f"vanilla_rnn{name}/input_to_hidden"], p[f"vanilla_rnn{name}/hidden_to_hidden"]
    h = np.tanh(x @ i["w"] + i["b"] + h @ r["w"])
    return h, h


def gru(p, name, x, h):
    """Cho et al. 2014: an update gate z and a reset gate r; here z = 1 takes all of the candidate."""
    p, H = p[f"gru{name}"], h.shape[1]
    from_x, w = x @ p["w_i"] + p["b"], p["w_h"]
    z, r = sigmoid(from_x[:, :H] + h @ w[:, :H]), sigmoid(from_x[:, H : 2 * H] + h @ w[:, H : 2 * H])
    h = (1 - z) * h + z * np.tanh(from_x[:, 2 * H :] + (r * h) @ w[:, 2 * H :])
    return h, h


def lstm(p, name, x, state):
    """Zaremba et al. 2014, with one added to the forget gate."""
    h, c = state
    p = p[f"lstm{name}/linear"]
    i, g, f, o = np.split(np.concatenate([x, h], axis=1) @ p["w"] + p["b"], 4, axis=1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, (h, c)


STEPS = {"vanilla": vanilla, "gru": gru, "lstm": lstm}
SHAPES = {
    "vanilla": {(3,): 1 + 1, (3, 3): 2},  # the learned start, a bias; from the input, from the state
    "gru": {(3,): 1, (9,): 1, (3, 9): 2},
    "lstm": {(3,): 2, (12,): 1, (6, 12): 1},
}


@pytest.mark.parametrize("core", CORES)
def test_each_core_is_what_it_is_called(core):
    """Shapes tell them apart: a published code base builds an LSTM for all three."""
    task = ModelTask(walk(7, 5), RNNLM(core, 3, 5, 7), "t", batch_size=4)
    shapes = [w.shape for w in jax.tree.leaves(jax.eval_shape(task.init, KEY).params)]
    shared = {(7, 3): 1, (3, 7): 1, (7,): 1}  # embeddings, logits
    assert {shape: shapes.count(shape) for shape in shapes} == {**SHAPES[core], **shared}


@pytest.mark.parametrize(("core", "depth"), [("vanilla", 2), ("gru", 1), ("lstm", 1)])
def test_loss_against_numpy(core, depth):
    task = ModelTask(walk(7, 6), RNNLM(core, 3, 5, 7, depth), "t", batch_size=4)
    params, state = perturbed(task)
    batch = task.batch(KEY)
    loss, _ = jax.jit(task.loss)(params, state, batch, KEY)
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), dict(params))
    starts = [np.tile(p["~"][name], (4, 1)) for name in sorted(p["~"])]
    states = [tuple(starts)] if core == "lstm" else starts
    logits = []
    for t in range(5):
        h = p["embed"]["embeddings"][np.asarray(batch["input"])[:, t]]
        for i, name in enumerate(["", "_1"][:depth]):
            h, states[i] = STEPS[core](p, name, h, states[i])
        logits.append(h @ p["linear"]["w"] + p["linear"]["b"])
    expected = numpy_loss(np.stack(logits, axis=1), np.asarray(batch["target"])[:, :5])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("core", CORES)
def test_weights_are_float32_under_x64(core):
    """A carry of two dtypes would not trace."""
    task = ModelTask(walk(7, 5), RNNLM(core, 3, 5, 7), "t", batch_size=4)
    with jax.enable_x64(True):
        params, state = jax.eval_shape(task.init, KEY)
        loss, _ = jax.eval_shape(task.loss, params, state, jax.eval_shape(task.batch, KEY), KEY)
    assert {w.dtype for w in (*jax.tree.leaves(params), loss)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("core", CORES)
def test_training(core):
    """A walk costs ln 2 nats a token, 0.33 of ln 8."""
    check_training(ModelTask(walk(8, 8), RNNLM(core, 12, 8, 8), "t", batch_size=32), 0.6)


def test_every_length_compiles_to_a_program_of_the_same_size():
    def size(length):
        task = ModelTask(walk(7, length), RNNLM("gru", 3, length, 7), "t", batch_size=4)
        params, _ = jax.eval_shape(task.init, KEY)
        batch = jax.eval_shape(task.batch, KEY)
        return len(str(jax.make_jaxpr(jax.grad(lambda p, b: task.loss(p, {}, b, KEY)[0]))(params, batch)))

    assert size(90) < 1.1 * size(20)


def test_short_windows_are_told_in_one_line():
    with pytest.raises(InputError, match=r"^data set 'walk': windows of 9 tokens, lengths up to 10 are drawn"):
        RNNLMs(length=(8, 10)).draw(KEY, walk(7, 9))
    with pytest.raises(InputError, match=r"^windows of 9 tokens, the model reads 10: use longer windows$"):
        ModelTask(walk(7, 9), RNNLM("gru", 3, 10, 7), "t").init(KEY)


def test_the_space_stays_in_its_ranges_and_reaches_their_ends():
    space, source = RNNLMs(width=(2, 5), length=(3, 6), depth=(1, 2)), walk(7, 6)
    drawn = [space.draw(key, source) for key in jax.random.split(KEY, 60)]
    assert {model.width for model in drawn} == {2, 3, 4, 5}
    assert {model.length for model in drawn} == {3, 4, 5, 6}
    assert {model.core for model in drawn} == set(CORES)
    assert all(model.classes == 7 for model in drawn)
    assert {model.depth for model in drawn} == {1, 2}
    model = drawn[0]
    assert model.dimensions == {"width": model.width, "depth": model.depth, "length": model.length}
    assert drawn[0].loss_cap == 1.5 * drawn[0].initial_loss == pytest.approx(1.5 * np.log(7))


def test_embeddings_are_looked_up():
    """Not multiplied: tokens that are absent from a batch have no gradient, those that are there have one."""
    task = ModelTask(walk(7, 5), RNNLM("vanilla", 3, 5, 7), "t")
    batch = {"input": jnp.array([[2, 4, 2, 4, 2]]), "target": jnp.array([[4, 2, 4, 2, 4]])}
    grads = jax.jit(jax.grad(lambda p: task.loss(p, {}, batch, KEY)[0]))(perturbed(task)[0])
    assert np.flatnonzero(np.abs(grads["embed"]["embeddings"]).sum(axis=1)).tolist() == [2, 4]
