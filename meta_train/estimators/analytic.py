"""PES+A: persistent evolution strategies whose last window is differentiated exactly.

Vicol, Metz, Sohl-Dickstein 2021 (arXiv:2112.13835), appendix. Beside its two perturbed states every pair has one of
theta itself; with p the gradient of the window's summed loss there, the start of the window held constant, and xi' the
sum of the episode's draws before this window's eps,

    g = 1/(2 sigma^2) 1/(N W) sum xi' (D - 2 eps . p) + 1/(N W) sum p

The effect of this window's own noise is taken out of D and its gradient put back without noise, so

    tr Var = P sum_ab |G_ab|^2 + sum_ab G_ab . G_ba,    G_ab = sum over windows t > max(a, b) of g_tb

(PES: t >= max(a, b)). Unbiased for a quadratic loss of linear dynamics; otherwise p belongs to the mean state and not
to the smoothed loss, a bias that vanishes with sigma. Noise is redrawn where a window begins and where an episode does.
A pair whose p is not finite, or whose episode ends within the window, falls back to PES there: unbiased as well.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from meta_train.estimators import diagnostics
from meta_train.estimators.backprop import Backprop, BackpropState
from meta_train.estimators.clock import Phases, Since
from meta_train.estimators.evolution import Evolution, EvolutionState
from meta_train.noise import Noise
from meta_train.problem import Problem

PyTree = Any


class AnalyticState(NamedTuple):
    """Everything that changes from one estimate to the next."""

    evolution: EvolutionState
    mean: BackpropState
    """The states of theta itself, on the same episodes."""


@dataclass(frozen=True)
class PESAnalytic:
    """The estimator."""

    noise: Noise
    """Perturbations of theta."""
    pairs: int
    """Antithetic pairs N."""
    window: int
    """Inner steps W per estimate; also between noise draws."""
    phases: Phases = Phases.LOCKSTEP
    """How the pairs start."""
    segment: int | None = None
    """See `Backprop`."""

    @property
    def inner_steps(self) -> int:
        """Inner steps of one estimate, all particles counted."""
        return self._evolution.inner_steps + self._backprop.inner_steps

    def init(self, problem: Problem, theta: PyTree, key: Key[Array, ""]) -> AnalyticState:
        """State before the first estimate."""
        return AnalyticState(self._evolution.init(problem, theta, key), self._backprop.init(problem, theta, key))

    def estimate(
        self, problem: Problem, theta: PyTree, state: AnalyticState
    ) -> tuple[PyTree, AnalyticState, dict[str, Array]]:
        """One estimate from the next W inner steps of every pair; metrics as of `Evolution` and `Backprop`."""
        seen = self._evolution.run(problem, theta, state.evolution)
        mean = self._backprop.gradients(problem, theta, state.mean)
        zeros = jax.tree.map(jnp.zeros_like, theta)
        own = jax.tree.map(lambda x: x[:, 1], seen.eps)  # the window begins with a block, which is slot 1
        plain = mean.lost | jnp.any(seen.plan.ticks.begins[1:], axis=0)
        rows = lambda x: jnp.reshape(plain, (-1,) + (1,) * (x.ndim - 1))
        each = jax.tree.map(lambda p: jnp.where(rows(p), 0.0, p), mean.each)

        def along(draw: PyTree, p: PyTree) -> Array:
            eps = self.noise.perturb(zeros, draw, jnp.ones((), seen.credit.dtype))
            return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), eps, p)), jnp.zeros(()))

        credit = seen.credit.at[:, 1].add(-2.0 * jax.vmap(along)(own, each))
        weights = self._evolution.weights(seen._replace(credit=credit))
        earlier = lambda xi, eps: xi - jnp.where(rows(xi), 0.0, eps)
        xi = jax.tree.map(lambda xi, eps: xi.at[:, 1].set(earlier(xi[:, 1], eps)), seen.xi, own)
        counted = self.pairs * self.window
        noisy = self.noise.combine(theta, weights, xi)
        gradient = jax.tree.map(lambda g, p: g + jnp.sum(p, axis=0).astype(g.dtype) / counted, noisy, each)
        metrics = diagnostics.losses(problem, seen.plan.ticks, seen.seen) | {"lost_gradients": jnp.mean(mean.lost)}
        if self.pairs > 1:
            one = lambda w, xi: self.noise.combine(theta, w, xi)
            single = jax.tree.map(lambda g, p: self.pairs * (g + p / counted), jax.vmap(one)(weights, xi), each)
            squares = sum(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(single))
            metrics |= diagnostics.signal_to_noise(gradient, jnp.asarray(squares))
        return gradient, AnalyticState(seen.state, mean.state), metrics

    @property
    def _evolution(self) -> Evolution:
        return Evolution(self.noise, self.pairs, self.window, self.window, phases=self.phases, since=Since.WINDOW)

    @property
    def _backprop(self) -> Backprop:
        return Backprop(self.pairs, self.window, self.phases, segment=self.segment)
