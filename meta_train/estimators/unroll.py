"""One window of every pair: episodes begin, particles step, losses are seen. All estimators run through here.

A *probe* says what one pair consists of: two perturbed states (`Antithetic`), those and the mean state
(`AntitheticWithMean`), the mean state alone (`Mean`), or the mean state with its derivative along a perturbation
(`estimators.forward.Tangent`). It is written for one pair; theta is perturbed where it is used, so a noise of low rank
never becomes a matrix per particle.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from meta_train.estimators.clock import Plan, Tick
from meta_train.noise import Noise
from meta_train.problem import Problem, bounded_loss

PyTree = Any


class Seen(NamedTuple):
    """What a pair shows at one step."""

    loss: Array
    """Losses as the problem gives them, [S], in float32 or wider."""
    delta: Array
    """D, the difference that is credited to the noise, of bounded losses; finite."""


@runtime_checkable
class Probe(Protocol):
    """What one pair consists of."""

    @property
    def states(self) -> int:
        """Problem states that it steps."""
        ...

    def begin(self, problem: Problem, theta: PyTree, draw: PyTree, key: Key[Array, ""]) -> PyTree:
        """The pair at the start of an episode."""
        ...

    @property
    def rejoins(self) -> bool:
        """Whether `redraw` changes anything."""
        ...

    def redraw(self, particle: PyTree) -> PyTree:
        """The pair where a new noise block begins."""
        ...

    def step(
        self, problem: Problem, theta: PyTree, draw: PyTree, particle: PyTree, key: Key[Array, ""]
    ) -> tuple[PyTree, Seen]:
        """One inner step of the pair."""
        ...


@dataclass(frozen=True)
class Antithetic:
    """Two states, of theta + eps and theta - eps: axis S."""

    noise: Noise

    @property
    def signs(self) -> tuple[float, ...]:
        """Of the states on axis S."""
        return (1.0, -1.0)

    @property
    def states(self) -> int:
        """See `Probe`."""
        return len(self.signs)

    @property
    def rejoins(self) -> bool:
        """See `Probe`."""
        return False

    def begin(self, problem: Problem, theta: PyTree, draw: PyTree, key: Key[Array, ""]) -> PyTree:
        """See `Probe`."""
        signs = jnp.asarray(self.signs, accumulator(theta))
        return jax.vmap(lambda sign: problem.reset(self.noise.perturb(theta, draw, sign), key))(signs)

    def redraw(self, particle: PyTree) -> PyTree:
        """See `Probe`."""
        return particle

    def step(
        self, problem: Problem, theta: PyTree, draw: PyTree, particle: PyTree, key: Key[Array, ""]
    ) -> tuple[PyTree, Seen]:
        """See `Probe`; both states see the same key."""
        dtype = accumulator(theta)
        one = lambda sign, state: problem.step(self.noise.perturb(theta, draw, sign), state, key)
        particle, loss = jax.vmap(one)(jnp.asarray(self.signs, dtype), particle)
        loss = loss[:2].astype(dtype)
        bounded = bounded_loss(problem, loss)
        return particle, Seen(loss, finite_or_zero(bounded[0] - bounded[1]))


@dataclass(frozen=True)
class AntitheticWithMean(Antithetic):
    """A third state follows theta itself; each noise block starts from it."""

    @property
    def signs(self) -> tuple[float, ...]:
        """See `Antithetic`."""
        return (1.0, -1.0, 0.0)

    @property
    def rejoins(self) -> bool:
        """See `Probe`."""
        return True

    def redraw(self, particle: PyTree) -> PyTree:
        """See `Probe`."""
        return jax.tree.map(lambda x: jnp.broadcast_to(x[2:], x.shape), particle)


@dataclass(frozen=True)
class Mean:
    """The state of theta itself."""

    @property
    def states(self) -> int:
        """See `Probe`."""
        return 1

    @property
    def rejoins(self) -> bool:
        """See `Probe`."""
        return False

    def begin(self, problem: Problem, theta: PyTree, draw: PyTree, key: Key[Array, ""]) -> PyTree:
        """See `Probe`."""
        del draw
        return problem.reset(theta, key)

    def redraw(self, particle: PyTree) -> PyTree:
        """See `Probe`."""
        return particle

    def step(
        self, problem: Problem, theta: PyTree, draw: PyTree, particle: PyTree, key: Key[Array, ""]
    ) -> tuple[PyTree, Seen]:
        """See `Probe`; there is no difference to credit."""
        del draw
        dtype = accumulator(theta)
        particle, loss = problem.step(theta, particle, key)
        return particle, Seen(loss[None].astype(dtype), jnp.zeros((), dtype))


def unroll(
    problem: Problem,
    probe: Probe,
    theta: PyTree,
    table: PyTree,
    particles: PyTree,
    plan: Plan,
    *,
    theta_axis: int | None = None,
    segment: int | None = None,
) -> tuple[PyTree, Seen]:
    """Run all pairs through the window of `plan`.

    Args:
      problem: what is unrolled.
      probe: what a pair consists of.
      theta: weights; with `theta_axis` 0, one copy for each pair, to differentiate pair by pair.
      table: noise of every pair and slot, leading axes [N, slots].
      particles: leading axis [N].
      plan: of `Timetable`.
      theta_axis: None or 0.
      segment: for reverse mode, steps whose intermediate values are recomputed together: W / segment states are
        kept, and `segment` steps' values at a time; None keeps everything.

    Returns:
      particles after the window, and what they showed: leading axes [W, N].
    """
    begin = jax.vmap(lambda theta, draw, key: probe.begin(problem, theta, draw, key), (theta_axis, 0, 0))
    advance = jax.vmap(lambda theta, *rest: probe.step(problem, theta, *rest), (theta_axis, 0, 0, 0))

    def step(particles: PyTree, now: tuple[Tick, Array, Array]) -> tuple[PyTree, Seen]:
        tick, episode_key, step_key = now
        draw = at(table, tick.slot)
        if probe.rejoins:
            joined = lambda: _where(tick.redraws, jax.vmap(probe.redraw)(particles), particles)
            particles = jax.lax.cond(jnp.any(tick.redraws), joined, lambda particles=particles: particles)
        # Initialising a model costs more than a step; most steps begin no episode at all.
        particles = jax.lax.cond(
            jnp.any(tick.begins),
            lambda: _where(tick.begins, begin(theta, draw, episode_key), particles),
            lambda: particles,
        )
        return advance(theta, draw, particles, step_key)

    window = (plan.ticks, plan.episode_keys, plan.step_keys)
    if segment is None:
        return jax.lax.scan(step, particles, window)
    steps = plan.step_keys.shape[0]
    whole = steps - steps % segment
    chunk = jax.checkpoint(lambda particles, part: jax.lax.scan(step, particles, part))
    parts = jax.tree.map(lambda x: x[:whole].reshape(-1, segment, *x.shape[1:]), window)
    particles, seen = jax.lax.scan(chunk, particles, parts)
    seen = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), seen)
    if whole == steps:
        return particles, seen
    particles, rest = chunk(particles, jax.tree.map(lambda x: x[whole:], window))
    return particles, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), seen, rest)


def accumulator(theta: PyTree) -> Any:
    """Dtype of losses, noise and their sums: that of theta, at least float32."""
    return jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(theta)))


def at(tree: PyTree, index: Int[Array, " N"]) -> PyTree:
    """Entry `index` of every pair, pair by pair: no indexing across the axis that devices share."""
    return jax.tree.map(jax.vmap(lambda x, i: x[i]), tree, jax.tree.map(lambda _: index, tree))


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    choose = lambda n, o: o if n is o else jnp.where(jnp.reshape(condition, (-1,) + (1,) * (o.ndim - 1)), n, o)
    return jax.tree.map(choose, new, old)


def finite_or_zero(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """A difference of losses without a cap may be lost: it then credits nothing."""
    return jnp.where(jnp.isfinite(x), x, 0.0)
