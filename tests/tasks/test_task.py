"""What every task promises, tried on every registered one and on one that each family draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tasks import suites
from tasks.errors import InputError

DRAWN = [name for name in suites.FAMILIES if name != "digits-mlp"]  # that one draws digits_mlp_32


class Start(NamedTuple):
    params: dict
    state: dict
    batch: dict
    loss: jax.Array
    new_state: dict


class Case(NamedTuple):
    """A task with one compiled program of its own, so that the tests of it share the compilation."""

    task: object
    start: object
    traces: list


@pytest.fixture(scope="module", params=[*suites.TASKS, *DRAWN])
def case(request):
    if request.param in suites.TASKS:
        task = suites.task(request.param)
    else:
        task = suites.family(request.param).sample(jax.random.key(1))
    traces = []

    @jax.jit
    def start(task, key):
        traces.append(task.name)
        params, state = task.init(key)
        batch = task.batch(key)
        loss, new_state = task.loss(params, state, batch, key)
        return Start(params, state, batch, loss, new_state)

    return Case(task, start, traces)


@jax.jit
def train(task, key):
    """The variables before and after 150 Adam steps, the losses, and the largest gradient norm."""
    adam = optax.adam(1e-2)
    params, state = task.init(key)

    def step(carry, i):
        params, state, opt_state = carry
        draw, noise = jax.random.split(jax.random.fold_in(key, i))
        (loss, state), grads = jax.value_and_grad(task.loss, has_aux=True)(params, state, task.batch(draw), noise)
        updates, opt_state = adam.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), (loss, optax.tree.norm(grads))

    carry, (losses, norms) = jax.lax.scan(step, (params, state, adam.init(params)), jnp.arange(150))
    return (params, state), carry[:2], losses, norms.max()


@jax.jit
def evaluate(task, params, state):
    return [task.evaluate(params, state, split) for split in ("train", "valid")]


def test_losses_fall_under_adam_with_finite_gradients(case):
    first, last, losses, norm = jax.device_get(train(case.task, jax.random.key(0)))
    assert np.isfinite(losses).all() and np.isfinite(norm) and norm > 0
    assert losses[-20:].mean() < 0.5 * losses[0]
    before, again, after = (evaluate(case.task, *variables) for variables in (first, first, last))
    assert before == again and before[0] != before[1]
    assert all(late < 0.6 * early for early, late in zip(before, after, strict=True))


def test_loss_is_a_float32_scalar_and_the_state_keeps_its_structure(case):
    start = case.start(case.task, jax.random.key(0))
    assert (start.loss.shape, start.loss.dtype) == ((), jnp.float32)
    assert jax.tree.structure(start.new_state) == jax.tree.structure(start.state)
    assert case.task.loss_cap == pytest.approx(1.5 * np.log(10))
    assert type(case.task.loss_cap) is float and type(case.task.name) is str


def test_all_randomness_comes_from_the_key(case):
    first, again, other = (jax.device_get(case.start(case.task, jax.random.key(seed))) for seed in (3, 3, 4))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    for part in ("params", "batch"):
        equal = jax.tree.map(np.array_equal, getattr(first, part), getattr(other, part))
        assert not jax.tree.all(equal)


def test_vmap_over_keys_equals_one_at_a_time(case):
    keys = jax.random.split(jax.random.key(5), 3)
    many = jax.device_get(jax.vmap(case.start, (None, 0))(case.task, keys))
    for i, key in enumerate(keys):
        one = jax.device_get(case.start(case.task, key))
        np.testing.assert_allclose(many.loss[i], one.loss, rtol=2e-5)
        jax.tree.map(lambda m, o, i=i: np.testing.assert_array_equal(m[i], o), many.batch, one.batch)


def test_a_task_is_an_argument_of_jit_that_compiles_once_and_holds_no_constants(case):
    case.start(case.task, jax.random.key(0))
    compiled = len(case.traces)
    leaves = jax.tree.leaves(case.task)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    copy = jax.tree.unflatten(jax.tree.structure(case.task), jax.device_put(jax.device_get(leaves)))
    case.start(copy, jax.random.key(1))
    assert len(case.traces) == compiled
    traced = jax.make_jaxpr(lambda task, key: task.batch(key))(case.task, jax.random.key(0))
    assert sum(np.size(constant) for constant in traced.consts) < 1000


def test_an_unknown_split_is_told_in_one_line(case):
    with pytest.raises(InputError, match=r"^split 'test': expected train or valid$"):
        case.task.evaluate({}, {}, "test")


@pytest.mark.parametrize("name", suites.TASKS)
def test_initial_loss_is_near_that_of_a_uniform_guess(name):
    task = suites.task(name)
    keys = jax.random.split(jax.random.key(0), 8)
    losses = jax.jit(jax.vmap(lambda key: task.evaluate(*task.init(key), "train")))(keys)
    np.testing.assert_allclose(np.mean(losses), np.log(10), rtol=0.15)
