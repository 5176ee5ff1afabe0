"""What an optimizer costs: seconds per update, seconds per training step, and state, beside `optax.adam`.

`measure(contenders, tasks)` gives optimizer -> `summary.Overhead`; call it once, after all training runs, with nothing
else running. To keep it, write `{name: dataclasses.asdict(o)}` as overhead.json, and read it back by `read_costs`;
pass only contenders that are not in it. `judge.summarize` takes the dict of all.

Two programs per optimizer, each a loop of n steps at the first trial, on the task of the most parameters:

    update    p, s <- update(g, s, p)           g fixed, the gradient at the start
    step      g <- gradient of the loss of a new batch, then the update: a training step

Each is compared with the same program of `optax.adam` in the same process, in turns: one measurement of Adam, one of
the optimizer; the ratio is the median over the rounds. n is a multiple of 10, the period of what some
optimizers do every few steps, and such that a measurement takes some 30 ms. It starts after n steps, when what is done
only once is over. No run is vmapped over seeds or trials, as users have it.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cattrs
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from learned_opt.errors import InputError
from meta_train.evaluate.contenders import Contender
from meta_train.evaluate.summary import Overhead
from tasks.task import Params, State, Task

PyTree = Any

LASTING = 0.03
"""Seconds that a measurement lasts at least, if 10 steps are not longer."""
ROUNDS = (3, 9)
"""Measurements: at least, at most."""
ENOUGH = 1.0
"""Seconds after which the rounds end."""
_HORIZON = 1000
"""Steps that an optimizer is told of."""


class Program(NamedTuple):
    """A loop of steps, compiled and warm."""

    run: Callable[[], Any]
    """Runs it once and waits for it."""
    steps: int
    """n."""


def measure(contenders: Sequence[Contender], tasks: Sequence[Task]) -> dict[str, Overhead]:
    """Name -> cost, on the largest of the tasks.

    It takes the compilation of two programs per optimizer, and up to 2 s or some 60 steps, whichever is longer.

    Args:
      contenders: the optimizers.
      tasks: at least one.
    """
    task = max(tasks, key=parameters)
    initial = start(task, jax.random.key(0))
    adam = Contender("optax.adam", "baseline", lambda theta, settings, steps: optax.adam(1e-3), ({},))
    reference = programs(task, adam, initial) if contenders else []
    found = {}
    for contender in contenders:
        own = programs(task, contender, initial)
        (update, update_ratio), (step, step_ratio) = map(in_turns, own, reference)
        found[contender.name] = Overhead(
            task=task.name,
            parameters=parameters(task),
            update_seconds=update,
            update_ratio=update_ratio,
            step_seconds=step,
            step_ratio=step_ratio,
            state_bytes_per_parameter=state_bytes(task, contender) / parameters(task),
        )
    return found


def read_costs(path: Path) -> dict[str, Overhead]:
    """Name -> cost, of an overhead.json.

    Raises:
      InputError: it cannot be read.
    """
    try:
        return cattrs.structure(json.loads(path.read_text()), dict[str, Overhead])
    except (OSError, ValueError, AttributeError, cattrs.BaseValidationError) as error:
        raise InputError(
            f"out: {path} is damaged ({type(error).__name__}); remove it, and measure again by --overhead"
        ) from error


def parameters(task: Task) -> int:
    """Weights of the model."""
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def state_bytes(task: Task, contender: Contender) -> int:
    """Size of the optimizer's state."""
    init = lambda theta, key: optimizer(contender, theta).init(task.init(key).params)
    state = jax.eval_shape(init, contender.theta, jax.random.key(0))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))


def optimizer(contender: Contender, theta: PyTree) -> optax.GradientTransformationExtraArgs:
    """The optimizer at its first trial."""
    return optax.with_extra_args_support(contender.make(theta, contender.trials[0], _HORIZON))


def update_loop(task: Task, contender: Contender, theta: PyTree, key: Key[Array, ""], n: Any, carry: PyTree) -> PyTree:
    """n updates with the gradient that is carried along."""
    opt = optimizer(contender, theta)
    batch = task.batch(key)

    def body(_: Any, carry: PyTree) -> PyTree:
        # Without the barrier compilers would take what depends on the gradient alone out of the loop.
        params, model_state, state, gradient = jax.lax.optimization_barrier(carry)
        obj_fn = lambda p: task.loss(p, model_state, batch, key)[0]
        updates, state = opt.update(gradient, state, params, value=jnp.float32(1.0), obj_fn=obj_fn)
        return optax.apply_updates(params, updates), model_state, state, gradient

    return jax.lax.fori_loop(0, n, body, carry)


def step_loop(task: Task, contender: Contender, theta: PyTree, key: Key[Array, ""], n: Any, carry: PyTree) -> PyTree:
    """n training steps; the gradient in the carry is left alone."""
    opt = optimizer(contender, theta)

    def body(t: Int[Array, ""], carry: PyTree) -> PyTree:
        params, model_state, state, gradient = carry
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, t))
        batch = task.batch(batch_key)
        loss_fn = lambda p: task.loss(p, model_state, batch, loss_key)
        (loss, new_state), g = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, state = opt.update(g, state, params, value=loss, obj_fn=lambda p: loss_fn(p)[0])
        return optax.apply_updates(params, updates), new_state, state, gradient

    return jax.lax.fori_loop(0, n, body, carry)


@jax.jit
def start(task: Task, key: Key[Array, ""]) -> tuple[Params, State, Params]:
    """Parameters, state of the model, and a gradient."""
    params, model_state = task.init(key)
    gradient, _ = jax.grad(task.loss, has_aux=True)(params, model_state, task.batch(key), key)
    return params, model_state, gradient


def programs(task: Task, contender: Contender, initial: tuple[Params, State, Params]) -> list[Program]:
    """The loop of updates and the loop of training steps, from what `start` returned."""
    params, model_state, gradient = initial
    state = jax.jit(lambda theta, params: optimizer(contender, theta).init(params))(contender.theta, params)
    carry = (params, model_state, state, gradient)
    return [program(task, contender, loop, carry) for loop in (update_loop, step_loop)]


def program(task: Task, contender: Contender, loop: Callable[..., PyTree], carry: PyTree) -> Program:
    """A loop with its n, after n steps."""

    @jax.jit
    def many(task: Task, theta: PyTree, key: Key[Array, ""], n: Int[Array, ""], carry: PyTree) -> PyTree:
        return loop(task, contender, theta, key, n, carry)

    key = jax.random.key(1)
    call = lambda n, carry: jax.block_until_ready(many(task, contender.theta, key, jnp.int32(n), carry))
    carry = call(10, carry)
    per_step = seconds(lambda: call(10, carry)) / 10
    n = min(10 * math.ceil(LASTING / per_step / 10), 10_000)
    warm = call(n, carry)
    return Program(lambda: call(n, warm), n)


def in_turns(own: Program, reference: Program) -> tuple[float, float]:
    """(median seconds per step, median ratio to those of the reference)."""
    found: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(found) < ROUNDS[0] or (len(found) < ROUNDS[1] and time.perf_counter() - begin < ENOUGH):
        other = seconds(reference.run) / reference.steps
        mine = seconds(own.run) / own.steps
        found.append((mine, mine / other))
    return statistics.median(s for s, _ in found), statistics.median(r for _, r in found)


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
