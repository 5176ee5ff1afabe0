"""How much of a loss the steps of one update may promise: the bound of `learned_opt.Helm`.

In the linear model of the loss a step D of all tensors together takes sum(g . D) off it. No step can take more than all
of it where the loss is a distance from zero, and a step that promises more overshoots: features of a thousand beside
some of one, a bias far from its target. With l the loss, L about the mean of all losses so far, and kappa, rho
weights of the rule:

    share = min(1, kappa max(|l|, rho |L|) / sum(g . D))             1 where the loss is no distance
    G     <- .9 G + .1 sum(g . step) / |l|                           of every tensor, with the step that was kept

Polyak's step (1987) is the case kappa = 1, rho = 0. With rho = 0 the bound costs much near zero, where steps that
overshoot in the steepest direction still gain in the others; and a loss that goes on below zero, as a negative log
likelihood, would stop there.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from learned_opt.helm_inputs import TINY

PyTree = Any


def kept(
    kappa: Float[Array, ""],
    rho: Float[Array, ""],
    promises: PyTree,
    progress: PyTree,
    loss: Float[Array, ""],
    mean: Float[Array, ""],
    signed: Bool[Array, ""],
) -> tuple[Float[Array, ""], PyTree]:
    """The share of its steps that an update keeps, and the progress of every tensor with it.

    Args:
      kappa: the most that is promised of a loss.
      rho: the share of the mean loss that counts as loss where the loss is lower.
      promises: of every tensor sum(g . D), scalars in a tree like the parameters.
      progress: G before, in such a tree.
      loss: of this step; where it is not finite nothing is bounded, and nothing was progress.
      mean: L.
      signed: whether any loss so far was no distance.
    """
    magnitude = jnp.where(jnp.isfinite(loss), jnp.abs(loss), jnp.inf)
    promised = sum(jax.tree.leaves(promises), jnp.zeros((), jnp.float32))
    most = jnp.where(signed, jnp.inf, kappa * jnp.maximum(magnitude, rho * jnp.abs(mean)))
    share = jnp.where(promised > most, most / jnp.maximum(promised, TINY), 1.0)
    return share, jax.tree.map(lambda G, x: 0.9 * G - 0.1 * (share * x / (magnitude + TINY)), progress, promises)
