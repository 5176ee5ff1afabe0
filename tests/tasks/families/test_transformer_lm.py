import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_checks import KEY, check_training, numpy_loss, perturbed, walk
from scipy.special import softmax

from tasks.errors import InputError
from tasks.families.transformer_lm import TransformerLM, TransformerLMs
from tasks.model_task import ModelTask


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def task():
    return ModelTask(walk(7, 6), TransformerLM(width=8, heads=2, depth=2, length=5, classes=7), "t", batch_size=4)


@pytest.fixture(scope="module")
def start(task):
    return perturbed(task, 0.1)


def norm(p, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p["scale"] + p["offset"]


def linear(p, x):
    return x @ p["w"] + p["b"]


def attention(p, out, x, heads):
    """One query, one head at a time."""
    (B, L, D), d = x.shape, x.shape[-1] // heads
    q, k, v = np.split(linear(p, x), 3, axis=-1)
    y = np.zeros((B, L, D))
    for b in range(B):
        for i in range(L):
            for h in range(heads):
                c = slice(h * d, (h + 1) * d)
                weight = softmax(k[b, : i + 1, c] @ q[b, i, c] / np.sqrt(d))
                y[b, i, c] = weight @ v[b, : i + 1, c]
    return linear(out, y)


def test_loss_against_numpy(task, start):
    batch = task.batch(KEY)
    loss, _ = jax.jit(task.loss)(*start, batch, KEY)
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), dict(start[0]))
    x = p["token"]["embeddings"][np.asarray(batch["input"])[:, :5]] + p["position"]["embeddings"]
    for first, second, block in (("", "_1", ""), ("_2", "_3", "_1")):
        x = x + attention(p[f"qkv{block}"], p[f"attention_output{block}"], norm(p[f"layer_norm{first}"], x), 2)
        hidden = linear(p[f"mlp{block}/~/linear_0"], norm(p[f"layer_norm{second}"], x))
        hidden = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))  # GELU as in GPT-2
        x = x + linear(p[f"mlp{block}/~/linear_1"], hidden)
    logits = linear(p["logits"], norm(p["layer_norm_4"], x))
    np.testing.assert_allclose(loss, numpy_loss(logits, np.asarray(batch["target"])[:, :5]), rtol=1e-5)


def test_no_position_sees_later_tokens(task, start):
    """What a target at position i costs against another is a difference of the logits there."""
    loss = jax.jit(lambda tokens, target: task.loss(*start, {"input": tokens, "target": target}, KEY)[0])
    tokens, target = jnp.array([[3, 1, 4, 1, 5]]), jnp.array([[1, 4, 1, 5, 2]])

    def margin(tokens, i):
        return float(loss(tokens, target) - loss(tokens, target.at[0, i].set(6)))

    for i in range(5):
        for j in range(5):
            change = abs(margin(tokens.at[0, j].set(0), i) - margin(tokens, i))
            assert change < 2e-6 if j > i else change > 1e-5, (i, j)


def test_training():
    """A walk costs ln 2 nats a token, 0.33 of ln 8."""
    check_training(ModelTask(walk(8, 8), TransformerLM(12, 2, 1, 8, 8), "t", batch_size=32), 0.55)


@pytest.mark.parametrize("classes", [2, 40])
def test_initial_loss(classes):
    task = ModelTask(walk(classes, 16), TransformerLM(32, 4, 2, 16, classes), "t")
    losses = jax.jit(jax.vmap(lambda key: task.evaluate(*task.init(key), "train")))(jax.random.split(KEY, 16))
    np.testing.assert_allclose(losses.mean(), task.model.initial_loss, rtol=0.1)
    assert task.model.loss_cap == pytest.approx(1.5 * np.log(classes))


def test_the_space_stays_in_its_ranges_and_reaches_their_ends():
    space, source = TransformerLMs(width=(6, 13), depth=(1, 3), length=(3, 5), heads=(1, 4)), walk(7, 5)
    drawn = [space.draw(key, source) for key in jax.random.split(KEY, 100)]
    assert {model.depth for model in drawn} == {1, 2, 3}
    assert {model.length for model in drawn} == {3, 4, 5}
    widths = {heads: {model.width for model in drawn if model.heads == heads} for heads in (1, 2, 4)}
    assert widths == {1: set(range(6, 14)), 2: {6, 8, 10, 12}, 4: {8, 12}}
    model = drawn[0]
    assert model.dimensions == {"width": model.width, "depth": model.depth, "length": model.length}
    with pytest.raises(InputError, match=r"^data set 'walk': windows of 5 tokens, lengths up to 32 are drawn"):
        TransformerLMs().draw(KEY, source)
