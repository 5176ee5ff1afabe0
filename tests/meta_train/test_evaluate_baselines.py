"""The baselines, each as the sweep uses it: rate, schedule and weight decay traced, vmapped over trials."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.evaluate import baselines, budget, names

STEPS = 40
PARAMS = {
    "scalar": np.float32(1.0),
    "vector": np.ones(3, np.float32),
    "matrix": np.linspace(0.5, 1.5, 6, dtype=np.float32).reshape(3, 2),
    "three": np.ones((2, 2, 2), np.float32),
    "four": np.ones((2, 1, 2, 2), np.float32),
}


pytestmark = pytest.mark.quick_compilation


def loss_fn(params):
    return sum(jnp.sum((i + 1) * (x - 0.3) ** 2) for i, x in enumerate(jax.tree.leaves(params)))


def run(entry, settings):
    """Loss at the evaluated parameters after `STEPS` steps, and the losses on the way."""
    rate = budget.scheduled(settings["learning_rate"], settings["schedule"], STEPS)
    opt = optax.with_extra_args_support(entry.make(rate, settings["weight_decay"]))

    def step(carry, _):
        params, state = carry
        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, state = opt.update(gradient, state, params, value=loss, obj_fn=loss_fn)
        return (optax.apply_updates(params, updates), state), loss

    params = jax.tree.map(jnp.array, PARAMS)
    (params, state), losses = jax.lax.scan(step, (params, opt.init(params)), None, length=STEPS)
    return loss_fn(entry.evaluation_params(state, params)), losses


def columns(trials):
    kinds = {"learning_rate": jnp.float32, "schedule": jnp.int32, "weight_decay": jnp.float32}
    return {name: jnp.array([t[name] for t in trials], kind) for name, kind in kinds.items()}


@functools.cache
def program(name):
    return jax.jit(jax.vmap(functools.partial(run, baselines.TABLE[name])))


@pytest.mark.parametrize("name", names.BASELINES)
def test_contract(name):
    """It learns at one of its seven rates, a trial is the same alone, and a decay shrinks what it acts on."""
    entry = baselines.TABLE[name]
    trials = budget.trials(entry.centre, entry.decays, 42)
    final, losses = program(name)(columns(trials))
    before = float(loss_fn(PARAMS))
    assert losses.shape == (42, STEPS) and np.allclose(losses[:, 0], before, rtol=1e-5)
    assert float(jnp.nanmin(final[:7])) < 0.2 * before
    alone = program(name)(columns([trials[i] for i in (0, 9)] * 21))
    np.testing.assert_allclose(alone[1][:2], losses[jnp.array([0, 9])], rtol=1e-5)
    # Trial i + 21 differs from trial i in the weight decay only, i + 7 and i + 14 in the schedule.
    for other in (7, 14, 21):
        assert not np.array_equal(losses[other : other + 7], losses[:7])


@pytest.mark.parametrize("name", names.BASELINES)
def test_dtypes_and_shapes_are_stable(name):
    entry = baselines.TABLE[name]

    def update(rate, decay):
        optimizer = optax.with_extra_args_support(entry.make(budget.scheduled(rate, 1, STEPS), decay))
        params = jax.tree.map(jnp.array, PARAMS)
        state = optimizer.init(params)
        updates, after = optimizer.update(params, state, params, value=jnp.float32(1.0), obj_fn=loss_fn)
        return state, after, optax.apply_updates(params, updates), entry.evaluation_params(after, params)

    before, after, *moved = jax.eval_shape(update, jnp.float32(0.1), jnp.float32(0.1))
    like = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert like(before) == like(after)
    assert all(like(tree) == like(PARAMS) for tree in moved)


OF_THEIR_OWN = {"dadapt_adamw", "dog", "momo", "momo_adam", "prodigy"}


@pytest.mark.parametrize("name", sorted(set(names.BASELINES) - OF_THEIR_OWN))
def test_decay_is_decoupled_and_of_matrices_alone(name):
    """Without a gradient, p loses rate x decay x p per step where it has two axes and nothing elsewhere."""
    rate, decay = 0.1, 0.2
    opt = optax.with_extra_args_support(baselines.TABLE[name].make(lambda count: jnp.float32(rate), decay))
    params = jax.tree.map(jnp.array, PARAMS)
    zeros = optax.tree.zeros_like(params)
    extra = {"value": jnp.float32(0.0), "obj_fn": lambda p: jnp.float32(0.0)}
    moved = jax.jit(lambda p: optax.apply_updates(p, opt.update(zeros, opt.init(p), p, **extra)[0]))(params)
    for key, p in params.items():
        left = p * (1 - rate * decay) if p.ndim > 1 else p
        if name == "lamb" and p.ndim > 1:  # its trust ratio makes the step as long as the parameters
            left = p * (1 - rate)
        np.testing.assert_allclose(moved[key], left, rtol=1e-4, err_msg=key)


def test_named_budgets_are_prefixes():
    trials = budget.trials(1e-2, (0.0, 0.1), 42)
    rates = (1e-2, 3e-2, 3e-3, 1e-1, 1e-3, 3e-1, 3e-4)
    assert len(trials) == 42 and len({tuple(t.values()) for t in trials}) == 42
    assert budget.trials(1e-2, (0.0, 0.1), 7) == trials[:7]
    assert trials[0] == {"learning_rate": 1e-2, "schedule": 0, "weight_decay": 0.0}
    assert [t["learning_rate"] for t in trials] == list(rates) * 6
    assert [t["schedule"] for t in trials] == [0] * 7 + [1] * 7 + [2] * 7 + [0] * 7 + [1] * 7 + [2] * 7
    assert [t["weight_decay"] for t in trials] == [0.0] * 21 + [0.1] * 21


@pytest.mark.parametrize(
    "centre, n, rates",
    [(1e-1, 7, (1e-1, 3e-1, 3e-2, 1.0, 1e-2, 3.0, 3e-3)), (3e-3, 3, (3e-3, 1e-2, 1e-3)), (1.0, 2, (1.0, 3.0))],
)
def test_rate_grid(centre, n, rates):
    assert budget.rate_grid(centre, n) == rates


@pytest.mark.parametrize("steps", [1, 7, 200])
def test_schedules_are_their_closed_forms(steps):
    warmup = steps // 20
    cosine = lambda t: (1 + math.cos(math.pi * (t - warmup) / (steps - warmup))) / 2
    expected = [
        [0.3] * (steps + 1),
        [0.3 * (t / warmup if t < warmup else cosine(t)) for t in range(steps + 1)],
        [0.3 * (1 - t / steps) for t in range(steps + 1)],
    ]
    rate = lambda schedule, t: budget.scheduled(jnp.float32(0.3), schedule, steps)(t)
    over = jax.vmap(jax.vmap(rate, (None, 0)), (0, None))
    found = jax.jit(over)(jnp.arange(3), jnp.arange(steps + 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_every_baseline_is_listed_with_its_description():
    assert list(baselines.TABLE) == list(names.BASELINES) == sorted(names.BASELINES)
