"""Augmentations against their equations, on quadratics and on a small network with batch normalisation."""

from dataclasses import dataclass, replace
from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from scipy.special import gammaln

from tasks.augmentations import (
    DelayedGradients,
    ESGradients,
    LabelNoise,
    LowPrecision,
    NormalisedGradients,
    ReducedBatch,
    Reparametrised,
    Subspace,
    applicable,
)
from tasks.augmentations.subspace import angles
from tasks.data import Dataset, Split
from tasks.errors import InputError
from tasks.families.quadratic import quadratic
from tasks.model_task import ModelTask
from tasks.sources import Examples
from tasks.task import Task, Variables

KEY = jax.random.key(0)
ALL = (
    LabelNoise,
    partial(Reparametrised, level="parameter"),
    ESGradients,
    ReducedBatch,
    LowPrecision,
    NormalisedGradients,
    partial(Subspace, directions=3),
    partial(DelayedGradients, delay=2),
)


pytestmark = pytest.mark.quick_compilation


@dataclass(frozen=True)
class Normalised:
    """A perceptron with batch normalisation and noise on its inputs: state, and a key that matters."""

    initial_loss: float = 1.1
    loss_cap: float = 5.0

    @property
    def dimensions(self):
        return {}

    def __call__(self, batch, training):
        x = batch["image"]
        if training:
            x = x + 0.1 * jax.random.normal(hk.next_rng_key(), x.shape, x.dtype)
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training=training)
        logits = hk.Linear(3)(jax.nn.relu(x)).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


def network():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 60)
    image = rng.normal(size=(60, 5)) + label[:, None]
    split = Split({"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label, jnp.int32)})
    return ModelTask(Examples(Dataset(split, split, "made_up", 3)), Normalised(), "network", batch_size=16)


def bowl(dimension=6, **settings):
    return quadratic(KEY, "bowl", jnp.linspace(1, 3, dimension), shape=(2, dimension // 2), **settings)


value_and_grad = jax.jit(lambda task, *a: jax.value_and_grad(task.loss, has_aux=True)(*a))
init = jax.jit(lambda task, key: task.init(key))
evaluate = jax.jit(lambda task, params, state: task.evaluate(params, state, "valid"))
gradients = jax.jit(
    lambda task, p, s, b, keys: jax.vmap(lambda k: jax.grad(task.loss, has_aux=True)(p, s, b, k)[0])(keys)
)


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(leaf, np.float32)) for leaf in jax.tree.leaves(tree)])


def many_gradients(task, count, seed=0):
    """The gradient of the task below, and `count` of the augmented one at the same place with other keys."""
    params, state = init(task, KEY)
    batch = task.batch(KEY)
    many = gradients(task, params, state, batch, jax.random.split(jax.random.key(seed), count))
    many = np.concatenate([np.asarray(leaf).reshape(count, -1) for leaf in jax.tree.leaves(many)], 1)
    return flat(value_and_grad(task.task, params, state, batch, KEY)[1]), many


@jax.jit
def train(task, key):
    params, state = task.init(key)

    def step(carry, key):
        params, state = carry
        draw, noise = jax.random.split(key)
        (loss, state), g = jax.value_and_grad(task.loss, has_aux=True)(params, state, task.batch(draw), noise)
        return (jax.tree.map(lambda w, g: w - (0.01 * g).astype(w.dtype), params, g), state), loss

    last, losses = jax.lax.scan(step, (params, state), jax.random.split(key, 4))
    return (params, state), last, losses, task.evaluate(*last, "valid")


def check_training(task):
    first, last, losses, valid = jax.vmap(train, (None, 0))(task, jax.random.split(KEY, 2))
    assert losses.shape == (2, 4) and losses.dtype == valid.dtype == jnp.float32
    assert jax.tree.map(lambda a: (a.shape, a.dtype), first) == jax.tree.map(lambda a: (a.shape, a.dtype), last)
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves((last, losses, valid)))
    assert not np.array_equal(flat(first[0]), flat(last[0]))


@pytest.mark.parametrize("order", [ALL, ALL[::-1]], ids=["published", "reversed"])
def test_all_at_once_in_both_orders_on_a_task_with_state(order):
    task = network()
    for augmentation in order:
        task = augmentation(task)
    assert isinstance(task, Task) and task.loss_cap == 5.0
    assert task.name.count("__") == 8 and task.name.startswith("network__")
    assert hash(jax.tree.structure(task)) is not None
    check_training(task)


@pytest.mark.parametrize("augmentation", ALL, ids=lambda a: getattr(a, "func", a).__name__)
def test_value_state_and_evaluation_are_those_of_the_task(augmentation):
    inner = bowl(noise=0.5)
    inner = network() if augmentation is LabelNoise else inner
    task = augmentation(inner)
    params, state = init(task, KEY)
    batch = task.batch(KEY)
    below, below_state = params, state
    if isinstance(task, Reparametrised):
        below = jax.tree.map(jnp.multiply, params, state["scale"])
    if isinstance(task, Reparametrised | DelayedGradients):
        below_state = state["task"]
    tolerance = 1e-2 if isinstance(task, LowPrecision) else 1e-5
    if not isinstance(task, LabelNoise):
        (loss, _), _ = value_and_grad(task, params, state, batch, KEY)
        (expected, _), _ = value_and_grad(inner, below, below_state, batch, KEY)
        np.testing.assert_allclose(loss, expected, rtol=tolerance)
    below = jax.tree.map(lambda w: w.astype(jnp.float32), below)
    evaluated, expected = evaluate(task, params, state), evaluate(inner, below, below_state)
    np.testing.assert_allclose(evaluated, expected, rtol=1e-5)
    with pytest.raises(InputError, match=r"^split 'test': expected train or valid$"):
        task.evaluate({}, {}, "test")


@pytest.mark.parametrize("level", ["global", "tensor", "parameter"])
def test_reparametrised_gradients_are_scaled(level):
    task = Reparametrised(network(), level, (1e-2, 1e2))
    params, state = init(task, KEY)
    batch = task.batch(KEY)
    s = jax.tree.map(lambda s, w: jnp.broadcast_to(s, w.shape), state["scale"], params)
    w = jax.tree.map(jnp.multiply, s, params)
    g = flat(value_and_grad(task.task, w, state["task"], batch, KEY)[1])
    scaled = flat(value_and_grad(task, params, state, batch, KEY)[1])
    np.testing.assert_allclose(scaled, flat(s) * g, rtol=1e-4, atol=1e-6 * np.abs(scaled).max())
    distinct = {"global": 1, "tensor": len(jax.tree.leaves(params)), "parameter": flat(params).size}
    assert len(np.unique(flat(state["scale"]))) == distinct[level]


@pytest.mark.parametrize("level", ["global", "tensor", "parameter"])
def test_scales_are_log_uniform_and_drawn_by_init(level):
    task = Reparametrised(bowl(), level, (1e-3, 1e1))
    keys = jax.random.split(KEY, 500)
    params, state = jax.jit(jax.vmap(task.init))(keys)
    scales, x = (np.asarray(jax.tree.leaves(tree)[0]) for tree in (state["scale"], params))
    w = x * scales.reshape(500, *(scales.shape[1:] or (1, 1)))
    assert stats.kstest(w[:, 0, 0], "norm").pvalue > 1e-3  # the weights of the task start as ever
    shares = (np.log10(scales.reshape(500, -1)[:, 0]) + 3) / 4
    assert stats.kstest(shares, "uniform").pvalue > 1e-3
    with pytest.raises(InputError, match=r"^level 'layer' of a re-parametrisation: expected one of global, tensor, "):
        Reparametrised(bowl(), "layer").init(KEY)


def test_reduced_batches_are_the_first_examples():
    task = network()
    whole = task.batch(KEY)
    for fraction, size in ((0.5, 8), (0.49, 7), (0.001, 1), (1.0, 16)):
        small = ReducedBatch(task, fraction).batch(KEY)
        jax.tree.map(lambda a, b, n=size: np.testing.assert_array_equal(a, b[:n]), small, whole)
        assert small["label"].shape == (size,)


def test_low_precision_types():
    task = LowPrecision(network())
    params, state = init(task, KEY)
    (loss, after), g = value_and_grad(task, params, state, task.batch(KEY), KEY)
    assert {w.dtype for w in jax.tree.leaves((params, g))} == {jnp.dtype(jnp.bfloat16)}
    types = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert types(after) == types(state) and loss.dtype == jnp.float32
    exact = value_and_grad(
        task.task, jax.tree.map(lambda w: w.astype(jnp.float32), params), state, task.batch(KEY), KEY
    )
    assert 0 < abs(float(loss - exact[0][0])) < 0.02


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e25])
def test_normalised_gradients_have_norm_one(size):
    task = NormalisedGradients(Reparametrised(bowl(), "global", (size, size)))
    params, state = init(task, KEY)
    below, normalised = (flat(value_and_grad(t, params, state, task.batch(KEY), KEY)[1]) for t in (task.task, task))
    np.testing.assert_allclose(np.linalg.norm(normalised.astype(np.float64)), 1, rtol=1e-5)
    unit = below.astype(np.float64) / np.linalg.norm(below.astype(np.float64))
    np.testing.assert_allclose(normalised, unit, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("augmentation", [NormalisedGradients, Subspace, partial(Subspace, weight="sign")])
def test_a_gradient_of_zero_stays_zero(augmentation):
    inner = bowl(noise=0.0)
    params = {"quadratic": {"x": inner.optimum.reshape(inner.shape)}}
    g = value_and_grad(augmentation(inner), params, {}, inner.batch(KEY), KEY)[1]
    np.testing.assert_array_equal(flat(g), np.zeros(6, np.float32))


@pytest.mark.parametrize(("dimension", "weight"), [(2, "sign"), (40, "projected")])
def test_one_direction(dimension, weight):
    """u (u . g) has its squared length along g, sign(u . g) u has length one, and u is uniform."""
    g, many = many_gradients(Subspace(bowl(dimension), 1, weight), 300)
    if weight == "projected":
        np.testing.assert_allclose((many**2).sum(1), many @ g, rtol=2e-3, atol=1e-6)
        return
    np.testing.assert_allclose((many**2).sum(1), 1, rtol=1e-4)
    squares = (many @ g / np.linalg.norm(g)) ** 2
    assert stats.kstest(squares, stats.beta(0.5, (dimension - 1) / 2).cdf).pvalue > 1e-3


def test_angles_to_uniform_directions():
    """The square of a coordinate of a uniform point of the sphere is Beta(1/2, (D - 1)/2)."""
    cosine, sine = jax.jit(lambda key: angles(key, (40, 5, 2, 1, 0), 2000))(KEY)
    np.testing.assert_allclose(cosine**2 + sine**2, 1, rtol=1e-6)
    for squares, dimension in zip(np.asarray(cosine) ** 2, (40, 5, 2), strict=False):
        assert stats.kstest(squares, stats.beta(0.5, (dimension - 1) / 2).cdf).pvalue > 1e-3
    assert stats.binomtest(int((cosine[0] > 0).sum()), 2000).pvalue > 1e-3
    np.testing.assert_allclose(np.abs(cosine[3:]), 1, rtol=1e-6)


def test_moments_of_several_directions():
    """E g' = (k / D) g and E |g'|² = |g|² (k / D + k (k - 1) / D²), from E u uᵀ = I / D and |u| = 1."""
    D, k = 6, 4
    g, many = many_gradients(Subspace(bowl(D), k), 8000)
    error = many.mean(0) - k / D * g
    assert np.all(np.abs(error) < 5 * many.std(0) / np.sqrt(8000))
    squares = (many**2).sum(1)
    expected = (g**2).sum() * (k / D + k * (k - 1) / D**2)
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(8000)


def test_moments_of_several_signs():
    """E g' = k E|a| ĝ, and E |g'|² = k + k (k - 1) (E|a|)², with a a coordinate of a uniform point of the sphere."""
    D, k = 6, 5
    g, many = many_gradients(Subspace(bowl(D), k, "sign"), 8000)
    mean = np.exp(gammaln(D / 2) - gammaln((D + 1) / 2)) / np.sqrt(np.pi)
    error = many.mean(0) - k * mean * g / np.linalg.norm(g)
    assert np.all(np.abs(error) < 5 * many.std(0) / np.sqrt(8000))
    squares = (many**2).sum(1)
    assert abs(squares.mean() - (k + k * (k - 1) * mean**2)) < 5 * squares.std() / np.sqrt(8000)


def test_an_unknown_weight_of_a_subspace():
    one = bowl()
    with pytest.raises(InputError, match=r"^weight 'half' of a subspace: expected one of projected, sign$"):
        Subspace(one, 1, "half").loss({}, {}, {}, KEY)


@pytest.mark.parametrize("delay", [1, 3])
def test_delayed_gradients_are_those_of_old_weights(delay):
    inner = network()
    task = DelayedGradients(inner, delay)
    params, state = init(task, KEY)
    below = state["task"]
    seen = [params]
    for t in range(6):
        batch = task.batch(jax.random.fold_in(KEY, t))
        (loss, state), g = value_and_grad(task, params, state, batch, KEY)
        expected = value_and_grad(inner, seen[max(0, t - delay)], below, batch, KEY)[1]
        (value, below), _ = value_and_grad(inner, params, below, batch, KEY)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), g, expected)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), (loss, state["task"]), (value, below))
        params = jax.tree.map(lambda w, g: w - 0.5 * g, params, g)
        seen.append(params)
    assert not np.allclose(flat(expected), flat(g) * 1.5)


@pytest.mark.parametrize("pairs", [1, 3])
def test_es_gradients_are_unbiased_on_a_quadratic(pairs):
    """E[ε εᵀ] = I, and antithetic differences of a quadratic have no term of third order."""
    g, many = many_gradients(ESGradients(bowl(noise=0.0), pairs, 0.1), 4000)
    error = many.mean(0) - g
    assert np.all(np.abs(error) < 5 * many.std(0) / np.sqrt(4000))
    # Cov = (|g|² I + g gᵀ) / n
    np.testing.assert_allclose(many.var(0), ((g**2).sum() + g**2) / pairs, rtol=0.2)


def test_composition_of_two_in_both_orders():
    scaled = partial(Reparametrised, level="global", scale=(8.0, 8.0))
    inner = bowl()
    for task, norm in ((scaled(NormalisedGradients(inner)), 8), (NormalisedGradients(scaled(inner)), 1)):
        params, state = init(task, KEY)
        assert np.linalg.norm(flat(value_and_grad(task, params, state, task.batch(KEY), KEY)[1])) == pytest.approx(norm)


@dataclass(frozen=True, eq=False)
class Echo:
    """A task whose state is the last batch that its loss saw."""

    source: object
    name: str = "echo"
    loss_cap: float = 1.0

    def init(self, key):
        return Variables({"w": jnp.zeros(1)}, {})

    def batch(self, key):
        return {"label": jnp.full((2000, 4), 2)}

    def loss(self, params, state, batch, key):
        return params["w"].sum(), batch

    def evaluate(self, params, state, split):
        return jnp.float32(0)


def test_label_noise_replaces_a_fraction_uniformly_anew_at_each_step():
    task = LabelNoise(ReducedBatch(Echo(network().source), 0.5), 0.3)
    seen = [
        np.asarray(task.loss({"w": jnp.zeros(1)}, {}, task.batch(KEY), jax.random.key(i))[1]["label"]) for i in (0, 1)
    ]
    assert seen[0].shape == (1000, 4) and not np.array_equal(*seen)
    counts = np.bincount(seen[0].ravel(), minlength=3)
    assert stats.chisquare(counts, 4000 * np.array([0.1, 0.1, 0.8])).pvalue > 1e-3
    again = task.loss({"w": jnp.zeros(1)}, {}, task.batch(KEY), KEY)[1]["label"]
    np.testing.assert_array_equal(again, seen[0])


def test_label_noise_wants_labels():
    assert applicable(network()) and applicable(Subspace(network())) and not applicable(bowl())
    inner = bowl()
    with pytest.raises(InputError, match=r"^label noise on task 'bowl': expected batches with integers called label$"):
        LabelNoise(inner).loss(inner.init(KEY).params, {}, inner.batch(KEY), KEY)


def test_a_training_run_can_be_differentiated_both_ways():
    task = DelayedGradients(NormalisedGradients(bowl(noise=0.0)))

    def final_loss(rate):
        params, state = task.init(KEY)
        for i in range(2):
            key = jax.random.fold_in(KEY, i)
            g, state = jax.grad(task.loss, has_aux=True)(params, state, task.batch(key), key)
            params = jax.tree.map(lambda w, g: w - rate * g, params, g)
        return task.evaluate(params, state, "train")

    rate = jnp.float32(0.1)
    forward = jax.jit(lambda r: jax.jvp(final_loss, (r,), (1.0,))[1])(rate)
    np.testing.assert_allclose(jax.jit(jax.grad(final_loss))(rate), forward, rtol=1e-4)
    value = jax.jit(final_loss)
    np.testing.assert_allclose(forward, (value(rate + 1e-2) - value(rate - 1e-2)) / 2e-2, rtol=0.02)


def test_settings_are_static():
    task = Subspace(bowl(), 3)
    assert jax.tree.structure(task) == jax.tree.structure(replace(task, task=bowl()))
    assert jax.tree.structure(task) != jax.tree.structure(replace(task, directions=4))
