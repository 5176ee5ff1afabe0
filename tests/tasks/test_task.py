"""What every task promises, tried on one of every family: with few steps, so that compilation is what it costs."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tasks import suites
from tasks.catalogue import wide
from tasks.catalogue.entries import Library
from tasks.errors import InputError
from tasks.families.learned_optimizer import LearnedOptimizer

STEPS, RATE = 120, 1e-2
JUDGED_ONLY = ["photos_mixer", "china_siren", "friedman_diffusion", "communities_gin", "heat_pinn", "rosenbrock_8"]
TRAINED = [
    "mlp", "conv", "resnet", "autoencoder", "vae", "vit", "rnn_lm", "transformer_lm", "tabular", "regression", "lopt",
    "quadratic",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Run(NamedTuple):
    first: jax.Array  # loss and losses on the splits, at the start
    batch: dict
    params: dict
    losses: jax.Array
    norms: jax.Array
    before: list
    after: list
    again: list


class Case(NamedTuple):
    """A task with compiled programs of its own, so that the tests of it share the compilation."""

    task: object
    run: object
    traces: list


@pytest.fixture(scope="module")
def families():
    mixture = wide.mixture(Library())
    families = dict(zip((family.name for family in mixture.families), mixture.families, strict=True))
    assert list(families) == TRAINED
    return families


@pytest.fixture(scope="module", params=["digits_mlp_32", *TRAINED, *JUDGED_ONLY])
def case(request, families):
    name = request.param
    task = families[name].sample(jax.random.key(3)) if name in families else suites.task(name)
    if name == "lopt":  # most that are drawn take longer than the steps of this test
        task = replace(task, model=LearnedOptimizer("mlp", 8, 20, 16, 8, task.source.classes), batch_size=320)
    traces = []

    @jax.jit
    def run(task, key):
        traces.append(task.name)
        adam = optax.adam(RATE)
        params, state = task.init(key)
        evaluate = lambda params, state: [task.evaluate(params, state, split) for split in ("train", "valid")]

        def step(carry, i):
            params, state, opt_state = carry
            draw, noise = jax.random.split(jax.random.fold_in(key, i))
            (loss, state), grads = jax.value_and_grad(task.loss, has_aux=True)(params, state, task.batch(draw), noise)
            updates, opt_state = adam.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), state, opt_state), (loss, optax.tree.norm(grads))

        (last, end, _), (losses, norms) = jax.lax.scan(step, (params, state, adam.init(params)), jnp.arange(STEPS))
        first = task.loss(params, state, task.batch(key), key)[0]
        before, again, after = evaluate(params, state), evaluate(params, state), evaluate(last, end)
        return Run(first, task.batch(key), params, losses, norms, before, after, again)

    return Case(task, run, traces)


def test_losses_fall_under_adam_with_finite_gradients(case):
    run = jax.device_get(case.run(case.task, jax.random.key(0)))
    assert np.isfinite(run.losses).all() and np.isfinite(run.norms).all() and run.norms.max() > 0
    assert run.before == run.again
    assert all(late < 0.98 * early for early, late in zip(run.before, run.after, strict=True))


def test_the_first_loss_is_near_the_stated_one(case):
    """At an initial scale of one, in the mean over keys."""
    if getattr(case.task, "initial_scale", (1.0, 1.0)) != (1.0, 1.0):
        pytest.skip("draws its initial scale")
    keys = jax.random.split(jax.random.key(0), 16)
    first = jax.device_get([case.run(case.task, key).before[0] for key in keys])
    stated = case.task.model.initial_loss if hasattr(case.task, "model") else case.task.initial_loss
    np.testing.assert_allclose(np.mean(first), stated, rtol=0.3)
    assert case.task.loss_cap > stated


def test_losses_are_float32_and_the_state_keeps_its_structure(case):
    params, state = jax.eval_shape(case.task.init, jax.random.key(0))
    batch = jax.eval_shape(case.task.batch, jax.random.key(0))
    loss, after = jax.eval_shape(case.task.loss, params, state, batch, jax.random.key(0))
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.leaves(after) == jax.tree.leaves(state)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert type(case.task.loss_cap) is float and type(case.task.name) is str


def test_all_randomness_comes_from_the_key(case):
    first, again, other = (jax.device_get(case.run(case.task, jax.random.key(seed))) for seed in (3, 3, 4))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    for part in ("params", "batch"):
        assert not jax.tree.all(jax.tree.map(np.array_equal, getattr(first, part), getattr(other, part)))


def test_vmap_over_keys_equals_one_at_a_time(case):
    keys = jax.random.split(jax.random.key(5), 2)

    def start(key):
        params, state = case.task.init(key)
        batch = case.task.batch(key)
        return batch, jax.value_and_grad(case.task.loss, has_aux=True)(params, state, batch, key)

    many = jax.device_get(jax.jit(jax.vmap(start))(keys))
    for i, key in enumerate(keys):
        one = jax.device_get(case.run(case.task, key))
        np.testing.assert_allclose(many[1][0][0][i], one.first, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(many[1][0][0][i] > 0, True)
        jax.tree.map(lambda m, o, i=i: np.testing.assert_array_equal(m[i], o), many[0], one.batch)


def test_a_task_is_an_argument_of_jit_that_compiles_once_and_holds_no_constants(case):
    case.run(case.task, jax.random.key(0))
    compiled = len(case.traces)
    leaves = jax.tree.leaves(case.task)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    copy = jax.tree.unflatten(jax.tree.structure(case.task), jax.device_put(jax.device_get(leaves)))
    case.run(copy, jax.random.key(1))
    assert len(case.traces) == compiled
    traced = jax.make_jaxpr(lambda task, key: task.batch(key))(case.task, jax.random.key(0))
    assert sum(np.size(constant) for constant in traced.consts) < 1000


def test_an_unknown_split_is_told_in_one_line(case):
    with pytest.raises(InputError, match=r"^split 'test': expected train or valid$"):
        case.task.evaluate({}, {}, "test")
