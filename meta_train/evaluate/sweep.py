"""All training runs of one optimizer on one task, as one compiled program.

    for each seed, for each trial:   T times   loss -> gradient -> update

The loop over steps is a loop over segments, at the ends of which the parameters are kept; the loops over trials and
seeds are vmaps. Seed i of a task means the same initialisation and the same batches for every trial of every
optimizer, so comparisons are paired. Batches depend on the seed only, and so vmap draws them once for all trials;
the number of updates is no part of a vmap, so that what an optimizer does every few steps stays rare.
Initialisation and the evaluation of the kept parameters are programs of their own: they are the same for all
optimizers, and compiled once for them.

The losses are those on the training batch before its update; `value=` passes them to the optimizer too, and
`obj_fn=` the loss of the batch as a function of the parameters.
"""

import time
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from meta_train.evaluate.contenders import Contender
from tasks.task import Task, Variables

PyTree = Any

EVALUATION = 0x6576616C
"""Folded into the seed: evaluation shares no initialisation and no batch with meta-training of equal seed."""
MEMORY = {"cpu": 2**25}
"""Bytes that the runs of a program may hold at once, by a generous estimate; more are run in chunks. On CPUs it is
the size of a cache: beyond it, larger programs are slower."""
MEMORY_ELSEWHERE = 2**30
"""The same on accelerators."""
MOMENTS = 11
"""Times at which the validation loss is measured."""


class Sweep(NamedTuple):
    """Results of trials x seeds training runs of T steps."""

    losses: Float[np.ndarray, "trials seeds T"]
    """Training loss of each step, before its update."""
    valid_losses: Float[np.ndarray, "trials seeds V"]
    """`task.evaluate(…, "valid")` at the moments `valid_steps`; the last is the final one."""
    valid_steps: Int[np.ndarray, " V"]
    """Updates made before each: evenly spaced, the first 0, the last T."""
    final_train_loss: Float[np.ndarray, "trials seeds"]
    """`task.evaluate(…, "train")` after the last update."""
    seconds: float
    """Run time of the program over its number of runs: training alone, without compilation and evaluation."""
    compile_seconds: float
    """Tracing and compilation of the program, once for all runs."""
    state_bytes: int
    """Size of the optimizer's state."""
    param_bytes: int
    """Size of the parameters."""


def task_key(seed: int, task: str) -> Key[Array, ""]:
    """Key of a task in an evaluation; it depends on the name of the task, not on its place in a suite."""
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION)
    return jax.random.fold_in(key, zlib.crc32(task.encode()) & 0x7FFFFFFF)


def moments(steps: int) -> Int[np.ndarray, " V"]:
    """Numbers of updates at which the validation loss is measured; fewer than `MOMENTS` if steps are few."""
    return np.unique(np.round(np.linspace(0, steps, MOMENTS)).astype(np.int32))


def train(
    task: Task,
    contender: Contender,
    theta: PyTree,
    settings: dict[str, Array],
    variables: Variables,
    key: Key[Array, ""],
    *,
    steps: int,
) -> tuple[Float[Array, " T"], Variables]:
    """One training run.

    Args:
      task: what is trained.
      contender: the optimizer.
      theta: its weights, `contender.theta`.
      settings: of the trial, scalars.
      variables: from `task.init`.
      key: of the batches.
      steps: T, updates.

    Returns:
      Loss of each step before its update, and the variables to evaluate at all moments but the first, with a
      leading axis of V - 1.
    """
    optimizer = optax.with_extra_args_support(contender.make(theta, settings, steps))

    def step(t: Array, carry: PyTree) -> PyTree:
        params, model_state, state, losses = carry
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, t))
        batch = task.batch(batch_key)
        loss_fn = lambda p: task.loss(p, model_state, batch, loss_key)
        (loss, new_state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params, value=loss, obj_fn=lambda p: loss_fn(p)[0])
        return optax.apply_updates(params, updates), new_state, state, losses.at[t].set(loss.astype(jnp.float32))

    def segment(carry: PyTree, ends: tuple[Array, Array]) -> tuple[PyTree, Variables]:
        carry = jax.lax.fori_loop(*ends, step, carry)
        params, model_state, state, _ = carry
        return carry, Variables(contender.evaluation_params(state, params), model_state)

    params, model_state = variables
    start = (params, model_state, optimizer.init(params), jnp.zeros(steps))
    bounds = jnp.array(moments(steps))
    (_, _, _, losses), kept = jax.lax.scan(segment, start, (bounds[:-1], bounds[1:]))
    return losses, kept


@jax.jit
def initialise(task: Task, keys: Key[Array, " seeds"]) -> tuple[Variables, Key[Array, " seeds"]]:
    """Of each seed, the initial variables and the key of the batches."""
    pairs = jax.vmap(jax.random.split)(keys)
    return jax.vmap(task.init)(pairs[:, 0]), pairs[:, 1]


@jax.jit
def evaluate(task: Task, kept: Variables) -> tuple[Float[Array, "seeds trials moments"], Float[Array, "seeds trials"]]:
    """Validation loss at all moments and training loss at the last, one after another: a split is large.

    Args:
      task: what is trained.
      kept: variables with leading axes of seeds, trials and moments.
    """
    last = jax.tree.map(lambda x: x[:, :, -1], kept)
    return _losses(task, kept, "valid", 3), _losses(task, last, "train", 2)


def _losses(task: Task, variables: Variables, split: str, axes: int) -> Float[Array, "..."]:
    """Loss on a split of variables with `axes` leading axes."""
    shape = jax.tree.leaves(variables)[0].shape[:axes]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[axes:]), variables)
    losses = jax.lax.map(lambda v: task.evaluate(v.params, v.state, split).astype(jnp.float32), flat)
    return losses.reshape(shape)


def seed_keys(task: Task, seeds: int, seed: int) -> Key[Array, " seeds"]:
    """Keys of the seeds of a task."""
    return jax.vmap(jax.random.fold_in, (None, 0))(task_key(seed, task.name), jnp.arange(seeds))


def initial_losses(task: Task, seeds: int, seed: int) -> Float[np.ndarray, " seeds"]:
    """Validation loss of each seed before training."""
    return np.asarray(_initial(task, seed_keys(task, seeds, seed)))


@jax.jit
def _initial(task: Task, keys: Key[Array, " seeds"]) -> Float[Array, " seeds"]:
    return _losses(task, initialise(task, keys)[0], "valid", 1)


def sweep(task: Task, contender: Contender, *, steps: int, seeds: int, seed: int, memory: int | None = None) -> Sweep:
    """Every trial of `contender` on every seed of `task`; deterministic up to the timings.

    Args:
      task: what is trained; its arrays are arguments of the program, not constants in it.
      contender: the optimizer and its trials.
      steps: updates per run.
      seeds: initialisations and batch sequences per trial.
      seed: what the keys derive from, with the name of the task.
      memory: bytes; None: `MEMORY` of the device.
    """
    memory = MEMORY.get(jax.default_backend(), MEMORY_ELSEWHERE) if memory is None else memory
    trials, columns = len(contender.trials), contender.columns()
    keys = seed_keys(task, seeds, seed)
    size = sizes(task, contender, steps)
    at_once = max(1, memory // size.run)
    trial_chunks = chunks(trials, at_once)
    seed_chunks = chunks(seeds, at_once // len(trial_chunks[0]))

    @jax.jit
    def program(task: Task, theta: PyTree, trial: PyTree, variables: PyTree, keys: PyTree) -> PyTree:
        one = lambda trial, variables, key: train(task, contender, theta, trial[0], variables, key, steps=steps)
        return jax.vmap(jax.vmap(one, (0, None, None)), (None, 0, 0))(trial, variables, keys)

    when = moments(steps)
    losses = np.zeros((seeds, trials, steps), np.float32)
    valid = np.zeros((seeds, trials, len(when)), np.float32)
    final_train = np.zeros((seeds, trials), np.float32)
    valid[:, :, 0] = initial_losses(task, seeds, seed)[:, None]
    compiled, seconds, compile_seconds = None, 0.0, 0.0
    for i in seed_chunks:
        variables, batch_keys = initialise(task, keys[i])
        for j in trial_chunks:
            # The index gives trials without settings a size.
            trial = ({name: column[j] for name, column in columns.items()}, j)
            arguments = (task, contender.theta, trial, variables, batch_keys)
            if compiled is None:
                start = time.perf_counter()
                compiled = program.lower(*arguments).compile()
                compile_seconds = time.perf_counter() - start
            start = time.perf_counter()
            curves, kept = jax.block_until_ready(compiled(*arguments))
            seconds += time.perf_counter() - start
            losses[i[:, None], j] = curves
            valid[i[:, None], j, 1:], final_train[i[:, None], j] = evaluate(task, kept)
    runs = len(seed_chunks) * len(seed_chunks[0]) * len(trial_chunks) * len(trial_chunks[0])
    return Sweep(
        losses=losses.swapaxes(0, 1),
        valid_losses=valid.swapaxes(0, 1),
        valid_steps=when,
        final_train_loss=final_train.swapaxes(0, 1),
        seconds=seconds / runs,
        compile_seconds=compile_seconds,
        state_bytes=size.state,
        param_bytes=size.params,
    )


def chunks(n: int, at_once: int) -> list[np.ndarray]:
    """The indices below n in chunks of one size, at most `at_once`; the last one may repeat the last index."""
    count = -(-n // max(1, at_once))
    size = -(-n // count)
    return [np.minimum(np.arange(i, i + size), n - 1) for i in range(0, n, size)]


class Sizes(NamedTuple):
    """Bytes of a training run."""

    params: int
    """Of the parameters."""
    state: int
    """Of the optimizer's state."""
    run: int
    """Estimate of all that a run holds."""


def sizes(task: Task, contender: Contender, steps: int) -> Sizes:
    """Memory of one run: two copies of its state, all intermediates of one gradient, and what is kept for evaluation.

    Compilers reuse and fuse buffers, so the second term is an upper bound.
    """
    settings = {name: jax.ShapeDtypeStruct((), column.dtype) for name, column in contender.columns().items()}

    def step(theta: PyTree, settings: PyTree, key: Array) -> PyTree:
        params, model_state = task.init(key)
        state = contender.make(theta, settings, steps).init(params)
        gradient = jax.grad(task.loss, has_aux=True)(params, model_state, task.batch(key), key)
        return params, model_state, state, gradient

    jaxpr, outputs = jax.make_jaxpr(step, return_shape=True)(contender.theta, settings, jax.random.key(0))
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    params, model_state, state, _ = outputs
    kept = len(moments(steps)) * size((params, model_state)) + 4 * steps
    return Sizes(size(params), size(state), 2 * size(outputs) + _intermediates(jaxpr.jaxpr) + kept)


def _intermediates(jaxpr: Any) -> int:
    """Bytes of the results of all equations, those of nested functions included once."""
    total = 0
    for equation in jaxpr.eqns:
        total += sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars if hasattr(v.aval, "dtype"))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += _intermediates(inner)
    return total
