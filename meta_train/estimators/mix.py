"""Truncated ES and backpropagation, mixed coordinate by coordinate by the inverse of their variances.

Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein 2019 (arXiv:1810.10180). Every pair n starts a window from the
state that theta reached and gives two estimates of the gradient of one smoothed loss, with eps ~ N(0, sigma^2 I):

    e_n = 1/(2 sigma^2) eps D           r_n = d/dtheta (L(theta + eps) + L(theta - eps)) / 2
    g   = (mean e / v_e + mean r / v_r) / (1 / v_e + 1 / v_r),    v: variance over the pairs, per weight

Where backpropagation explodes, its variance hands the weight to ES. Variances are estimated from the same samples, so
the mean is biased by O(1/N); truncation biases it as it does truncated ES. Cost: one backward pass through both states
of every pair. A pair whose gradient is not finite counts in e alone.

Noise is redrawn where a window begins and where an episode does: both estimates then hold the same states constant.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from learned_opt.errors import InputError
from meta_train.estimators import diagnostics
from meta_train.estimators.backprop import copies, without_lost
from meta_train.estimators.clock import Phases, Since
from meta_train.estimators.credit import Carry
from meta_train.estimators.evolution import Evolution, EvolutionState, Window
from meta_train.noise import LowRank, Noise
from meta_train.problem import Problem, bounded_loss

PyTree = Any


@dataclass(frozen=True)
class InverseVarianceMix:
    """The estimator."""

    noise: Noise
    """Perturbations of theta, dense."""
    pairs: int
    """Antithetic pairs N, at least 2."""
    window: int
    """Inner steps W per estimate; also between noise draws."""
    phases: Phases = Phases.LOCKSTEP
    """How the pairs start."""
    segment: int | None = None
    """See `Backprop`."""

    def __post_init__(self) -> None:
        """Check that there are variances.

        Raises:
          InputError: a single pair, or low-rank noise.
        """
        if self.pairs < 2:
            raise InputError(f"pairs {self.pairs}: the mix needs variances over pairs, expected at least 2")
        if isinstance(self.noise, LowRank):
            raise InputError("low-rank noise: the mix holds a gradient per pair in full, expected dense noise")

    @property
    def inner_steps(self) -> int:
        """Inner steps of one estimate, all particles counted."""
        return self._evolution.inner_steps

    def init(self, problem: Problem, theta: PyTree, key: Key[Array, ""]) -> EvolutionState:
        """State before the first estimate: that of truncated ES."""
        return self._evolution.init(problem, theta, key)

    def estimate(
        self, problem: Problem, theta: PyTree, state: EvolutionState
    ) -> tuple[PyTree, EvolutionState, dict[str, Array]]:
        """One estimate from the next W inner steps of every pair.

        Returns:
          gradient like theta, of the mean loss per inner step; the next state; metrics of `diagnostics`,
          `lost_gradients` (fraction of pairs without a finite r) and `weight_of_backprop` (mean over weights).
        """
        evolution = self._evolution

        def total(thetas: PyTree) -> tuple[Array, Window]:
            window = evolution.run(problem, theta, state, thetas, segment=self.segment)
            bounded = jnp.mean(bounded_loss(problem, window.seen.loss), axis=-1)
            return jnp.sum(jnp.where(window.plan.ticks.counted, bounded, 0.0)), window

        each, window = jax.grad(total, has_aux=True)(copies(theta, self.pairs))
        each, lost = without_lost(each)
        counted = jnp.maximum(jnp.sum(window.steps), 1)
        smooth = jax.tree.map(lambda x: self.pairs * x / counted.astype(x.dtype), each)
        weights = evolution.weights(window)
        one = lambda w, xi: self.noise.combine(theta, self.pairs * w, xi)
        search = jax.vmap(one)(weights, window.xi)
        mixed = jax.tree.map(lambda e, r: inverse_variance(e, r, ~lost), search, smooth)
        pick = lambda i: jax.tree.map(lambda e, pair: pair[i], search, mixed)
        gradient, share = pick(0), pick(1)
        size = sum(x.size for x in jax.tree.leaves(theta))
        metrics = diagnostics.losses(problem, window.plan.ticks, window.seen) | {
            "lost_gradients": jnp.mean(lost),
            "weight_of_backprop": jnp.sum(jnp.stack([jnp.sum(x) for x in jax.tree.leaves(share)])) / size,
        }
        return gradient, window.state, metrics

    @property
    def _evolution(self) -> Evolution:
        return Evolution(self.noise, self.pairs, self.window, self.window, Carry.MEAN, self.phases, since=Since.WINDOW)


def inverse_variance(
    e: Float[Array, "N *shape"], r: Float[Array, "N *shape"], counts: Bool[Array, " N"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The mix of two sets of samples, and the weight of the second; samples of r that do not count are left out.

    A set whose variance overflows weighs nothing, the first one if both do; with fewer than two samples of r, or with
    no variance in either set, the first set, or the plain mean of both, is the answer.
    """
    n = jnp.sum(counts)
    mask = jnp.reshape(counts, (-1,) + (1,) * (r.ndim - 1))
    mean_e, v_e = jnp.mean(e, axis=0), jnp.var(e, axis=0, ddof=1)
    mean_r = jnp.sum(jnp.where(mask, r, 0.0), axis=0) / jnp.maximum(n, 1)
    v_r = jnp.sum(jnp.where(mask, jnp.square(r - mean_r[None]), 0.0), axis=0) / jnp.maximum(n - 1, 1)
    # Of the means: with all samples counted, the shares are those of the variances themselves.
    v_e, v_r = v_e / e.shape[0], v_r / jnp.maximum(n, 1)
    share = jnp.where(v_e + v_r > 0, v_e / jnp.where(v_e + v_r > 0, v_e + v_r, 1.0), 0.5)
    usable = (n >= 2) & jnp.isfinite(v_r) & jnp.isfinite(mean_r)
    share = jnp.where(usable, jnp.where(jnp.isfinite(v_e), share, 1.0), 0.0)
    return jnp.where(share < 1, (1 - share) * mean_e, 0.0) + share * jnp.where(usable, mean_r, 0.0), share
