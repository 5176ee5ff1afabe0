"""Nowcasting around an optimizer: every `period` calls, a jump to where a network predicts the parameters to be.

Knyazev et al.: "Accelerating Training with Neuron Interaction and Nowcasting Networks", ICLR 2025 (arXiv:2409.04434).
With c past states, at calls n = 0, 1, 2, …, spacing s = period // c, and parameters p before the call:

    (n + 1) mod s = 0         p is recorded as the next of the c states
    and it is the c-th one    no step of the inner optimizer; p <- network(states, k_i), i = min(K - 1, n // period)
    otherwise                 the step of the inner optimizer

k_i is the horizon of the window, in spacings. Windows share no state. The state of the inner optimizer stays as it is
over a jump. Beyond the published code: a window that ends less than a window before the end of the run does not jump,
since the loss rises right after a jump; a prediction that is not finite is not taken, the parameters then stay for that
call; and the history is part of the state, so a run that is resumed within a window goes on as if never stopped.

State beside the inner one: c floats per parameter in its dtype, and some integers.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from learned_opt.errors import InputError
from learned_opt.nowcast import base
from learned_opt.nowcast.base import Network
from learned_opt.nowcast.wiring import Wiring, check, named, unconnected
from learned_opt.rules.base import check_num_steps, check_params

PyTree = Any
Accept = Callable[[tuple[PyTree, ...], PyTree, Int[Array, ""]], Any]
"""(history, prediction, k) -> the share of the jump to make, a scalar: 0 refuses it, 1 takes it whole."""
FOREVER = np.iinfo(np.int32).max


class Schedule(NamedTuple):
    """When to jump, and how far; int32."""

    horizons: Array
    """k_i, shape [K]."""
    period: Array
    """Calls in a window, scalar."""
    num_steps: Array
    """Calls of the run, scalar; the largest integer where it is not known."""


class State(NamedTuple):
    """State of the wrapper."""

    t: Array
    """Calls so far, int32 scalar."""
    schedule: Schedule
    history: tuple[PyTree, ...]
    """c trees like the parameters, the oldest first; those not yet recorded in this window are of earlier ones or 0."""
    inner: Any
    """State of the inner optimizer."""


def nowcast(
    inner: optax.GradientTransformation,
    network: Network,
    theta: Any = (),
    *,
    num_steps: int | Int[Array, ""] | None = None,
    period: int = 1000,
    horizons: int | Sequence[int] | None = None,
    wiring: Wiring | None = None,
    accept: Accept | None = None,
    memory: str = "device",
) -> optax.GradientTransformationExtraArgs:
    """The inner optimizer with jumps.

    Args:
      inner: any optimizer whose updates are added to the parameters.
      network: predictor, such as `LineFit()`.
      theta: its weights.
      num_steps: calls of the whole run; jumps whose window ends less than a window before it are not made.
      period: calls from jump to jump, at least c, and counted in whole spacings: c * (period // c).
      horizons: for each `period` calls (k_i above), or one for all; the last also for later ones. By default the
        published schedule for `num_steps`, which was made for NiNo: 40 down to 1. The line fit wants about 2.
      wiring: that of the parameters, for networks that read it; by default every parameter is unconnected.
      accept: how much of a jump to make, from history, prediction and horizon; all of it by default.
      memory: where the history lies between calls, "device" or "host", which leaves the memory of the accelerator free.

    Returns:
      The transform. Its `update` needs `params`; gradients are not read at a jump (`jumps_next`).

    Raises:
      InputError: settings out of range; from `init`, parameters that are not floating or that the wiring does not fit.
    """
    inner = optax.with_extra_args_support(inner)
    check_num_steps(num_steps, needed=False)
    known = None if isinstance(num_steps, jax.Array) else num_steps
    c, schedule = network.states, _check_schedule(network, known, period, horizons)
    _check_theta(network, theta)
    theta = jax.tree.map(jnp.asarray, theta)
    if memory not in ("device", "host"):
        raise InputError(f"memory is {memory!r}: expected 'device' or 'host'")

    def graph_of(params: PyTree) -> Wiring:
        graph = wiring if wiring is not None else unconnected(params)
        check(graph, params)
        return graph

    def place(tree: PyTree) -> PyTree:
        return jax.device_put(tree, jax.memory.Space.Host) if memory == "host" else tree

    def init(params: PyTree) -> State:
        check_params(params)
        graph_of(params)
        # Copies: the state may be donated, what was given not.
        whole = Schedule(
            jnp.array(schedule, jnp.int32),
            jnp.array(period, jnp.int32),
            jnp.array(FOREVER if num_steps is None else num_steps, jnp.int32),
        )
        history = tuple(place(jax.tree.map(jnp.zeros_like, params)) for _ in range(c))
        return State(jnp.zeros((), jnp.int32), whole, history, inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, State]:
        if params is None:
            raise ValueError("params is None: nowcasting reads the parameters, call update(grads, state, params)")
        n, spacing = state.t, state.schedule.period // c
        recorded = (n + 1) % spacing == 0
        slot = n // spacing % c
        # A loop of at most one turn: its carry stays in place, where that of a `cond` is copied at every call.
        record = lambda i, old: jax.lax.fori_loop(
            0, (recorded & (slot == i)).astype(jnp.int32), lambda _, __: place(params), old
        )
        # A restored state lies where its arrays were made.
        history = tuple(record(i, place(old)) for i, old in enumerate(state.history))
        step = lambda: inner.update(updates, state.inner, params, **extra)
        dtypes = jax.eval_shape(step)[0]

        def jump() -> tuple[PyTree, PyTree]:
            h = state.schedule.horizons
            k = h[jnp.minimum(n // state.schedule.period, h.shape[0] - 1)]
            near = jax.device_put(history, jax.memory.Space.Device) if memory == "host" else history
            predicted = network.predict(theta, near, k, graph_of(params)) if jax.tree.leaves(params) else params
            share = jnp.float32(1.0) if accept is None else jnp.asarray(accept(near, predicted, k), jnp.float32)
            ok = [jnp.all(jnp.isfinite(y)) for y in (share, *jax.tree.leaves(predicted))]
            ok = jnp.all(jnp.stack(ok))
            move = lambda d, y, p: jnp.where(ok, share * (y - p.astype(jnp.float32)), 0.0).astype(d.dtype)
            return jax.tree.map(move, dtypes, predicted, params), state.inner

        updates, inner_state = jax.lax.cond(_jumps(state, c), jump, step)
        return updates, State(jnp.asarray(optax.safe_increment(n)), state.schedule, history, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def jumps_next(state: State) -> Bool[Array, ""]:
    """Whether the next call jumps, and so does not read its gradients."""
    return _jumps(state, len(state.history))


def _jumps(state: State, c: int) -> Bool[Array, ""]:
    done, spacing = state.t + 1, state.schedule.period // c
    # As a difference, which cannot overflow.
    return (done % (c * spacing) == 0) & (state.schedule.num_steps - done >= c * spacing)


def _check_theta(network: Network, theta: Any) -> None:
    expected = jax.eval_shape(network.init, jax.random.key(0))
    shapes = lambda tree: {name: jnp.shape(leaf) for name, leaf in named(tree).items()}
    if shapes(expected) != shapes(theta) or jax.tree.structure(expected) != jax.tree.structure(theta):
        odd = sorted({name for name, _ in shapes(expected).items() ^ shapes(theta).items()})
        part = f"leaf {odd[0]!r} has shape {shapes(theta).get(odd[0], 'none')}" if odd else f"a {type(theta).__name__}"
        raise InputError(
            f"theta is not of network {network!r}: {part}; take theta from this network's init, or what it came with"
        )


def _check_schedule(network: Network, num_steps: Any, period: int, given: Any) -> tuple[int, ...]:
    c = network.states
    if not isinstance(period, int | np.integer) or isinstance(period, bool) or period < c:
        raise InputError(f"period is {period!r}: expected a whole number of calls, at least the {c} states of a window")
    if given is None and num_steps is None:
        raise InputError(
            "horizons is None, and num_steps None or an array, which a schedule is not made for: give num_steps as a "
            "number, or horizons, 2 for a line fit"
        )
    chosen = base.horizons(int(num_steps), int(period)) if given is None else given
    chosen = tuple(chosen) if isinstance(chosen, Sequence | np.ndarray) else (chosen,)
    most = network.max_horizon
    for k in chosen:
        if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1 or (most is not None and k > most):
            raise InputError(
                f"horizon {k!r}: expected a whole number of spacings from 1"
                + (f" to {most}, which {type(network).__name__} predicts" if most is not None else "")
            )
    if not chosen:
        raise InputError("horizons are empty: expected at least one")
    return tuple(int(k) for k in chosen)
