import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from evaluate_toy import ScaledSGD, linear

from meta_train.evaluate import baselines, contenders
from meta_train.evaluate import sweep as sweeping
from meta_train.evaluate.sweep import sweep

STEPS = 12


@functools.cache
def swept(name):
    """Three rates and seeds of a baseline, seed 5."""
    return sweep(linear(), contenders.baseline(name, 3), steps=STEPS, seeds=3, seed=5)


@jax.jit
def gradient(task, params, batch, key):
    return jax.value_and_grad(lambda p: task.loss(p, {}, batch, key)[0])(params)


def reference(task, optimizer, key, evaluation_params=lambda state, params: params):
    """One training run as a plain loop, written independently of the sweep."""
    init_key, steps_key = jax.random.split(key)
    params, _ = task.init(init_key)
    state = optimizer.init(params)
    moments = np.round(np.linspace(0, STEPS, 11))
    losses, valid = [], [task.evaluate(params, {}, "valid")]
    for t in range(STEPS):
        batch_key, loss_key = jax.random.split(jax.random.fold_in(steps_key, t))
        loss, grads = gradient(task, params, task.batch(batch_key), loss_key)
        losses.append(loss)
        updates, state = optimizer.update(grads, state, params, value=loss)
        params = optax.apply_updates(params, updates)
        if t + 1 in moments:
            valid.append(task.evaluate(evaluation_params(state, params), {}, "valid"))
    train = task.evaluate(evaluation_params(state, params), {}, "train")
    return np.array(losses), train, np.array(valid)


@pytest.mark.parametrize("name", ["adam", "schedule_free_adamw"])
def test_a_sweep_is_a_plain_loop_for_each_rate_and_seed(name):
    entry = baselines.TABLE[name]
    assert contenders.baseline(name, 3).trials[1]["learning_rate"] == 0.03
    optimizer = optax.with_extra_args_support(entry.make(lambda count: 0.03, 0.0))
    key = jax.random.fold_in(sweeping.task_key(5, "linear"), 1)
    losses, train, valid = reference(linear(), optimizer, key, entry.evaluation_params)
    run = swept(name)
    assert run.losses.shape == (3, 3, STEPS)
    np.testing.assert_allclose(run.losses[1, 1], losses, rtol=2e-5)
    np.testing.assert_allclose(run.final_train_loss[1, 1], train, rtol=2e-5)
    np.testing.assert_array_equal(run.valid_steps, [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12])
    np.testing.assert_allclose(run.valid_losses[1, 1], valid, rtol=2e-5)
    assert train != valid[-1]


@pytest.mark.parametrize(
    "steps, expected",
    [(1, [0, 1]), (5, [0, 1, 2, 3, 4, 5]), (20, list(range(0, 21, 2))), (200, list(range(0, 201, 20)))],
)
def test_moments_are_even_and_hold_both_ends(steps, expected):
    assert set(sweeping.moments(steps).tolist()) <= set(expected)
    assert sweeping.moments(steps)[[0, -1]].tolist() == [0, steps]
    assert len(sweeping.moments(steps)) == min(len(expected), 11)


def test_sizes_of_parameters_and_state():
    size = sweeping.sizes(linear(), contenders.baseline("adam", 7), STEPS)
    assert size.params == 3 * 4
    assert size.state == 2 * 3 * 4 + 2 * 4  # two moments; the steps of Adam and of its schedule


def test_a_learned_optimizer_gets_weights_number_of_steps_and_loss():
    task, theta = linear(), {"rate": jnp.float32(0.1)}
    run = sweep(task, contenders.learned("mine", ScaledSGD(), theta), steps=STEPS, seeds=2, seed=0)
    assert run.losses.shape == (1, 2, STEPS)
    optimizer = optax.with_extra_args_support(ScaledSGD().transform(theta, num_steps=STEPS))
    losses, _, valid = reference(task, optimizer, jax.random.fold_in(sweeping.task_key(0, "linear"), 0))
    np.testing.assert_allclose(run.losses[0, 0], losses, rtol=2e-5)
    np.testing.assert_allclose(run.valid_losses[0, 0], valid, rtol=2e-5)


def test_seeds_are_paired_over_trials_and_optimizers_and_differ_from_each_other():
    first = swept("adam").losses[0, :, 0]  # before any update: initialisation and first batch alone
    np.testing.assert_array_equal(swept("adam").losses[1, :, 0], first)
    np.testing.assert_allclose(swept("schedule_free_adamw").losses[2, :, 0], first, rtol=1e-6)
    assert len(set(first.tolist())) == 3


def test_keys_differ_by_seed_and_task_and_from_those_of_meta_training():
    keys = [
        sweeping.task_key(0, "a"),
        sweeping.task_key(0, "b"),
        sweeping.task_key(1, "a"),
        jax.random.key(0),
    ]
    keys += [jax.random.fold_in(jax.random.key(0), i) for i in range(3)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)


@pytest.mark.parametrize("at_once", [2, 7])
def test_chunks_change_nothing(at_once):
    """Two runs at once split the three trials, seven the three seeds; neither divides evenly."""
    contender = contenders.baseline("adam", 3)
    memory = at_once * sweeping.sizes(linear(), contender, STEPS).run
    chunked = sweep(linear(), contender, steps=STEPS, seeds=3, seed=5, memory=memory)
    np.testing.assert_allclose(chunked.losses, swept("adam").losses, rtol=1e-5)
    np.testing.assert_allclose(chunked.final_train_loss, swept("adam").final_train_loss, rtol=1e-5)
    np.testing.assert_allclose(chunked.valid_losses, swept("adam").valid_losses, rtol=1e-5)


@pytest.mark.parametrize(
    "n, at_once, expected",
    [
        (3, 5, [[0, 1, 2]]),
        (3, 2, [[0, 1], [2, 2]]),
        (7, 6, [[0, 1, 2, 3], [4, 5, 6, 6]]),  # as even as they can be
        (2, 0, [[0], [1]]),
    ],
)
def test_chunks(n, at_once, expected):
    assert [chunk.tolist() for chunk in sweeping.chunks(n, at_once)] == expected


def test_memory_estimate_counts_what_is_held():
    # At least twice 3 weights, their gradient and Adam's two moments, in float32.
    assert sweeping.sizes(linear(), contenders.baseline("adam", 1), 4).run > 2 * 4 * 3 * 4


def test_seconds_exclude_compilation():
    assert 0 < 9 * swept("adam").seconds < swept("adam").compile_seconds


def test_arguments_and_names_need_no_jax():
    code = "import sys, meta_train.evaluate.args, meta_train.evaluate.names; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
