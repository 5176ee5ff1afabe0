"""Backpropagation through the unroll: truncated, and through whole episodes.

N particles at theta itself, each on its own episode; with l the loss, bounded as everywhere,

    g = 1/(N W) sum over particles and steps of the window of  d l_k / d theta,    the state that the window starts from
                                                                                    held constant

Exact if a window is a whole episode (`whole`); otherwise blind to how theta shaped the state before the window
(short-horizon bias: Wu et al. 2018, arXiv:1803.02021). Where the inner dynamics are chaotic its variance grows
exponentially with W (Metz et al. 2019, arXiv:1810.10180): then smooth, with an evolution strategy.

Memory: the values of all W steps; with `segment` c, W / c states and the values of c steps, each step run twice.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from learned_opt.errors import InputError
from meta_train.estimators import diagnostics
from meta_train.estimators.clock import Clock, Phases, Plan, Timetable
from meta_train.estimators.credit import Objective, telescoped
from meta_train.estimators.evolution import DATA
from meta_train.estimators.unroll import Mean, Seen, unroll
from meta_train.problem import Problem, bounded_loss

PyTree = Any


class BackpropState(NamedTuple):
    """Everything that changes from one estimate to the next."""

    data_keys: Array
    """Key of every particle for its episodes, [N]; those of `Evolution` for the same key."""
    clock: Clock
    particles: PyTree
    """Problem states, leading axis [N]."""


class Gradients(NamedTuple):
    """The gradient of every particle, before they are added."""

    each: PyTree
    """Like theta, leading axis [N]: of the sum over the window; zero where it is lost."""
    lost: Array
    """Particles whose gradient is not finite, [N] bool."""
    plan: Plan
    seen: Seen
    state: BackpropState
    """After the window."""


@dataclass(frozen=True)
class Backprop:
    """The estimator; `meta_train.estimators` has constructors by name."""

    pairs: int
    """Particles N."""
    window: int
    """Inner steps W per estimate."""
    phases: Phases = Phases.LOCKSTEP
    """How the particles start."""
    whole: bool = False
    """Every window runs whole episodes from their start."""
    objective: Objective = Objective.MEAN
    """What of an episode is differentiated; for `FINAL`, of a window: T times the loss of its last step."""
    segment: int | None = None
    """Steps whose values are recomputed together; None keeps all values."""

    @property
    def inner_steps(self) -> int:
        """Inner steps of one estimate, all particles counted."""
        return self.pairs * self.window

    @property
    def timetable(self) -> Timetable:
        """The settings that time depends on."""
        return Timetable(self.pairs, self.window, None, self.phases, self.whole)

    def init(self, problem: Problem, theta: PyTree, key: Key[Array, ""]) -> BackpropState:
        """State before the first estimate; the first step of every particle begins an episode.

        Raises:
          InputError: the window of full backpropagation is shorter than an episode can be.
        """
        if self.whole and self.window < problem.max_horizon:
            raise InputError(
                f"window {self.window}: full backpropagation runs whole episodes, expected at least "
                f"{problem.max_horizon}"
            )
        shapes = jax.eval_shape(problem.reset, theta, key)
        stream = jax.random.fold_in(key, DATA)
        return BackpropState(
            jax.vmap(jax.random.fold_in, (None, 0))(stream, jnp.arange(self.pairs)),
            self.timetable.start(),
            jax.tree.map(lambda x: jnp.zeros((self.pairs, *x.shape), x.dtype), shapes),
        )

    def estimate(
        self, problem: Problem, theta: PyTree, state: BackpropState
    ) -> tuple[PyTree, BackpropState, dict[str, Array]]:
        """One estimate from the next W inner steps of every particle.

        Returns:
          gradient like theta, of the mean loss per inner step; the next state; metrics of `diagnostics` and
          `lost_gradients`, the fraction of particles whose gradient is not finite.
        """
        got = self.gradients(problem, theta, state)
        counted = jnp.maximum(jnp.sum(got.plan.ticks.counted), 1)
        scaled = jax.tree.map(lambda x: self.pairs * x / counted.astype(x.dtype), got.each)
        gradient = jax.tree.map(lambda x, t: jnp.mean(x, axis=0).astype(t.dtype), scaled, theta)
        squares = sum(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(scaled))
        metrics = diagnostics.losses(problem, got.plan.ticks, got.seen) | {"lost_gradients": jnp.mean(got.lost)}
        return gradient, got.state, metrics | diagnostics.signal_to_noise(gradient, jnp.asarray(squares))

    def gradients(self, problem: Problem, theta: PyTree, state: BackpropState) -> Gradients:
        """The gradient of every particle's own sum over the next W inner steps."""
        plan = self.timetable.plan(problem, state.clock, state.data_keys)

        def total(thetas: PyTree) -> tuple[Array, tuple[PyTree, Seen]]:
            particles, seen = unroll(
                problem, Mean(), thetas, (), state.particles, plan, theta_axis=0, segment=self.segment
            )
            value = bounded_loss(problem, seen.loss[..., 0])
            if self.objective is Objective.FINAL:
                # The loss before the window is a constant here: any other has the same derivative.
                value = telescoped(plan.ticks, value, jnp.zeros_like(value[0]), plan.ticks.t == 0)
            return jnp.sum(jnp.where(plan.ticks.counted, value, 0.0)), (particles, seen)

        each, (particles, seen) = jax.grad(total, has_aux=True)(copies(theta, self.pairs))
        each, lost = without_lost(each)
        return Gradients(each, lost, plan, seen, BackpropState(state.data_keys, plan.clock, particles))


def copies(theta: PyTree, n: int) -> PyTree:
    """Theta n times: the gradient by it has an axis for the particles."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), theta)


def without_lost(each: PyTree) -> tuple[PyTree, Array]:
    """Gradients with leading axis [N], in at least float32, zero for a particle with any entry that is not finite."""
    axes = lambda x: tuple(range(1, x.ndim))
    fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x), axis=axes(x)) for x in jax.tree.leaves(each)]), axis=0)
    keep = lambda x: jnp.where(jnp.reshape(fine, (-1,) + (1,) * (x.ndim - 1)), x, 0.0)
    return jax.tree.map(lambda x: keep(x.astype(jnp.promote_types(x.dtype, jnp.float32))), each), ~fine
