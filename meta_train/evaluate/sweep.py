"""All training runs of one optimizer on one task, as one compiled program.

    for each seed, for each trial:   `steps` times   loss -> gradient -> update

The loop over steps is a scan, the loops over trials and seeds are vmaps. Seed i of a task means the same
initialisation and the same batches for every trial of every optimizer, so comparisons are paired. Batches
depend on the seed only, and so vmap draws them once for all trials. Initialisation and the final evaluation are
programs of their own: they are the same for all optimizers, and compiled once for them.

The losses are those on the training batch before its update; `value=` passes them to the optimizer too.
"""

import time
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from meta_train.evaluate.contenders import Contender
from tasks.task import Task, Variables

PyTree = Any

EVALUATION = 0x6576616C
"""Folded into the seed: evaluation shares no initialisation and no batch with meta-training of equal seed."""
MEMORY = 2**30
"""Bytes that the runs of a program may hold at once, by a generous estimate; more are run in chunks."""


class Sweep(NamedTuple):
    """Results of trials x seeds training runs of T steps."""

    losses: Float[np.ndarray, "trials seeds T"]
    """Training loss of each step, before its update."""
    final_train_loss: Float[np.ndarray, "trials seeds"]
    """`task.evaluate(…, "train")` after the last update."""
    final_valid_loss: Float[np.ndarray, "trials seeds"]
    """`task.evaluate(…, "valid")` after the last update."""
    seconds: float
    """Run time of the program over its number of runs: training alone, without compilation and evaluation."""
    compile_seconds: float
    """Tracing and compilation of the program, once for all runs."""


def task_key(seed: int, task: str) -> Key[Array, ""]:
    """Key of a task in an evaluation; it depends on the name of the task, not on its place in a suite."""
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION)
    return jax.random.fold_in(key, zlib.crc32(task.encode()) & 0x7FFFFFFF)


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
      Loss of each step before its update, and the variables to evaluate.
    """
    optimizer = optax.with_extra_args_support(contender.make(theta, settings, steps))

    def step(carry: tuple[PyTree, PyTree, PyTree], t: Array) -> tuple[tuple[PyTree, PyTree, PyTree], Array]:
        params, model_state, state = carry
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, t))
        batch = task.batch(batch_key)
        (loss, model_state), gradient = jax.value_and_grad(task.loss, has_aux=True)(
            params, model_state, batch, loss_key
        )
        updates, state = optimizer.update(gradient, state, params, value=loss)
        return (optax.apply_updates(params, updates), model_state, state), loss

    params, model_state = variables
    start = (params, model_state, optimizer.init(params))
    (params, model_state, state), losses = jax.lax.scan(step, start, jnp.arange(steps))
    return losses, Variables(contender.evaluation_params(state, params), model_state)


@jax.jit
def initialise(task: Task, keys: Key[Array, " seeds"]) -> tuple[Variables, Key[Array, " seeds"]]:
    """Of each seed, the initial variables and the key of the batches."""
    pairs = jax.vmap(jax.random.split)(keys)
    return jax.vmap(task.init)(pairs[:, 0]), pairs[:, 1]


@jax.jit
def evaluate(task: Task, variables: Variables) -> tuple[Float[Array, "seeds trials"], Float[Array, "seeds trials"]]:
    """Losses on the training and validation split, one run after another: a split is large."""
    one = lambda v: tuple(task.evaluate(v.params, v.state, split) for split in ("train", "valid"))
    return jax.lax.map(lambda of_seed: jax.lax.map(one, of_seed), variables)


def sweep(task: Task, contender: Contender, *, steps: int, seeds: int, seed: int, memory: int = MEMORY) -> Sweep:
    """Every trial of `contender` on every seed of `task`; deterministic up to the timings.

    Args:
      task: what is trained; its arrays are arguments of the program, not constants in it.
      contender: the optimizer and its trials.
      steps: updates per run.
      seeds: initialisations and batch sequences per trial.
      seed: what the keys derive from, with the name of the task.
      memory: bytes; see `MEMORY`.
    """
    trials = len(contender.trials)
    columns = {name: np.array([t[name] for t in contender.trials], np.float32) for name in contender.trials[0]}
    keys = jax.vmap(jax.random.fold_in, (None, 0))(task_key(seed, task.name), jnp.arange(seeds))
    at_once = max(1, memory // bytes_per_run(task, contender, steps))
    trial_chunks = chunks(trials, at_once)
    seed_chunks = chunks(seeds, at_once // len(trial_chunks[0]))

    @jax.jit
    def program(task: Task, theta: PyTree, trial: PyTree, variables: PyTree, keys: PyTree) -> PyTree:
        one = lambda trial, variables, key: train(task, contender, theta, trial[0], variables, key, steps=steps)
        return jax.vmap(jax.vmap(one, (0, None, None)), (None, 0, 0))(trial, variables, keys)

    losses = np.zeros((seeds, trials, steps), np.float32)
    final = np.zeros((2, seeds, trials), np.float32)
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
            curves, trained = jax.block_until_ready(compiled(*arguments))
            seconds += time.perf_counter() - start
            losses[i[:, None], j] = curves
            final[:, i[:, None], j] = evaluate(task, trained)
    runs = len(seed_chunks) * len(seed_chunks[0]) * len(trial_chunks) * len(trial_chunks[0])
    losses, final = losses.swapaxes(0, 1), final.swapaxes(1, 2)
    return Sweep(losses, final[0], final[1], seconds / runs, compile_seconds)


def chunks(n: int, at_once: int) -> list[np.ndarray]:
    """The indices below n in chunks of one size, at most `at_once`; the last one may repeat the last index."""
    count = -(-n // max(1, at_once))
    size = -(-n // count)
    return [np.minimum(np.arange(i, i + size), n - 1) for i in range(0, n, size)]


def bytes_per_run(task: Task, contender: Contender, steps: int) -> int:
    """Estimate of the memory of one run: two copies of its state and all intermediates of one gradient.

    Compilers reuse and fuse buffers, so the second term is an upper bound.
    """
    settings = {name: jax.ShapeDtypeStruct((), np.float32) for name in contender.trials[0]}

    def step(theta: PyTree, settings: PyTree, key: Array) -> PyTree:
        params, model_state = task.init(key)
        state = contender.make(theta, settings, steps).init(params)
        gradient = jax.grad(task.loss, has_aux=True)(params, model_state, task.batch(key), key)
        return params, model_state, state, gradient

    jaxpr, outputs = jax.make_jaxpr(step, return_shape=True)(contender.theta, settings, jax.random.key(0))
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(outputs))
    return 2 * state + _intermediates(jaxpr.jaxpr)


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
