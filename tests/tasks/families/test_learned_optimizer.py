"""Unrolled training of update rules, on a made-up classification that is easy to learn."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from tasks.data import Dataset, Split
from tasks.families.learned_optimizer import RULES, LearnedOptimizer, LearnedOptimizers, _adam_update, _mlp_update
from tasks.model_task import Model, ModelTask, Space
from tasks.sources import Examples

KEY = jax.random.key(0)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def source():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 400)
    image = rng.normal(size=(400, 5)) + 2 * np.eye(5)[label]
    split = Split({"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label, jnp.int32)})
    return Examples(Dataset(split, split, "made_up", 3))


@pytest.fixture(scope="module", params=RULES)
def task(request):
    return ModelTask(source(), LearnedOptimizer(request.param, 6, 5, 4, 3, 3), "t", batch_size=40)


value_and_grad = jax.jit(lambda task, *a: jax.value_and_grad(task.loss, has_aux=True)(*a))
init = jax.jit(lambda task, key: task.init(key))


def test_rules_take_the_steps_of_their_equations():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    w, gs = [draw(3, 2), draw(2)], [[draw(3, 2), draw(2)] for _ in range(3)]
    zeros = [jnp.zeros_like(x) for x in w]
    θ = {"w_hidden": draw(4, 6), "b_hidden": draw(6), "w_out": draw(6, 2), "b_out": draw(2)}
    adam = {"rates_and_decays": draw(3, 2)}
    mlp_state = adam_state = (zeros, zeros)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    unit = lambda x: x / np.sqrt(np.mean(x**2) + 1e-8)
    for k, g in enumerate(gs, 1):
        u, mlp_state = _mlp_update(θ, w, g, mlp_state, jnp.float32(k))
        v, adam_state = _adam_update(adam, w, g, adam_state, jnp.float32(k))
        numpy = lambda tree: jax.tree.map(np.asarray, tree)
        p, rates, history = numpy(θ), numpy(adam)["rates_and_decays"], numpy(gs)
        for i in range(2):
            m = [sum((1 - β) * β ** (k - 1 - j) * history[j][i] for j in range(k)) for β in (0.5, 0.9)]
            x = np.stack([unit(history[k - 1][i]), unit(m[0]), unit(m[1]), np.asarray(w[i])], -1)
            a, d = np.moveaxis(np.tanh(x @ p["w_hidden"] + p["b_hidden"]) @ p["w_out"] + p["b_out"], -1, 0)
            np.testing.assert_allclose(u[i], 0.005 * np.exp(3 * np.tanh(a)) * np.tanh(d), rtol=1e-4, atol=1e-6)
            r, β1, β2 = rates[:, i]
            β1, β2 = sigmoid(np.log(9) + 2 * np.tanh(β1)), sigmoid(np.log(99) + 2 * np.tanh(β2))
            mean = lambda β, xs, k=k: sum((1 - β) * β ** (k - 1 - j) * xs[j] for j in range(k)) / (1 - β**k)
            first, second = mean(β1, [g[i] for g in history]), mean(β2, [g[i] ** 2 for g in history])
            expected = 0.005 * np.exp(3 * np.tanh(r)) * first / np.sqrt(second + 1e-6)
            np.testing.assert_allclose(v[i], expected, rtol=1e-4, atol=1e-6)


def test_gradients_go_through_the_unroll(task):
    assert isinstance(task.model, Model)
    params, state = init(task, KEY)
    batch = task.batch(KEY)
    (loss, _), g = value_and_grad(task, params, state, batch, KEY)
    along = jax.tree.map(lambda x: x / 1, g)
    shift = lambda h: jax.tree.map(lambda w, d: w + h * d, params, along)
    norm = sum(float((x**2).sum()) for x in jax.tree.leaves(g))
    h = 1e-2 / math.sqrt(norm)
    difference = (
        value_and_grad(task, shift(h), state, batch, KEY)[0][0]
        - value_and_grad(task, shift(-h), state, batch, KEY)[0][0]
    )
    np.testing.assert_allclose(difference / (2 * h), norm, rtol=0.05)
    assert task.model.initial_loss == pytest.approx(math.log(3)) and abs(loss - math.log(3)) < 0.5


@pytest.mark.parametrize("size", [1e-6, 1e3, 1e12])
def test_loss_and_gradient_stay_finite_for_any_weights(task, size):
    params, state = init(task, KEY)
    wild = jax.tree.map(lambda w: size * jax.random.normal(KEY, w.shape), params)
    (loss, _), g = value_and_grad(task, wild, state, task.batch(KEY), KEY)
    assert np.isfinite(loss) and loss < 20
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(g))


def test_a_rule_learns_to_train(task):
    @jax.jit
    def run(key):
        params, state = task.init(key)

        def step(params, key):
            draw, noise = jax.random.split(key)
            g = jax.grad(task.loss, has_aux=True)(params, state, task.batch(draw), noise)[0]
            norm = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(g)))
            return jax.tree.map(lambda w, g: w - 0.05 * g / norm, params, g), None

        last = jax.lax.scan(step, params, jax.random.split(key, 60))[0]
        return tuple(task.evaluate(p, state, "valid") for p in (params, last))

    before, after = run(KEY)
    assert after < 0.95 * before


def test_runs_of_a_batch():
    task = ModelTask(source(), LearnedOptimizer("adam", 0, 5, 4, 3, 3), "t", batch_size=40)
    params, state = init(task, KEY)
    batch = task.batch(KEY)
    loss = jax.jit(lambda batch: task.loss(params, state, batch, KEY)[0])
    whole = loss(batch)
    assert loss({name: array.at[-1].set(array[0]) for name, array in batch.items()}) != whole
    # 5 x 4 make a run, so 47 examples make two runs, and the last 7 are left out
    longer = {name: jnp.concatenate([array, array[:7]]) for name, array in batch.items()}
    np.testing.assert_allclose(loss(longer), whole, rtol=1e-5)
    assert np.isfinite(loss({name: array[:3] for name, array in batch.items()}))


def test_a_space_stays_in_its_ranges():
    space = LearnedOptimizers(width=(2, 3), length=(2, 4), inner_batch=(5, 6), inner_width=(7, 8))
    assert isinstance(space, Space)
    drawn = [space.draw(key, source()) for key in jax.random.split(KEY, 40)]
    assert drawn[7] == space.draw(jax.random.split(KEY, 40)[7], source())
    assert {m.rule for m in drawn} == {"mlp", "adam"} and {m.unroll for m in drawn} == {2, 3, 4}
    assert {m.hidden for m in drawn if m.rule == "mlp"} == {2, 3} and {m.inner_width for m in drawn} == {7, 8}
    assert {m.inner_batch for m in drawn} == {5, 6} and {m.classes for m in drawn} == {3}
    for m in drawn:
        assert m.dimensions == ({"width": m.hidden} if m.rule == "mlp" else {}) | {"length": m.unroll}
    assert replace(drawn[0], unroll=9).dimensions["length"] == 9
