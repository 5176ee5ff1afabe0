"""What a rule knows of the scale of a loss: running mean and variance, and a loss measured by them.

    mean <- d mean + (1 - d) l;   var <- d var + (1 - d) (mean - l)^2;   n <- n + 1      from zeros, the new mean in var
    w    = 1 - d^n + eps                                                                  undoes the start from zero
    f(l) = clip((l - mean / w) / sqrt(var / w + 1e-8), -5, 5)

Metz et al. 2020 (arXiv:2009.11243). A loss that is not finite is left out, and f of it is 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class LossStatistics(NamedTuple):
    """Statistics of the losses seen so far, scalars."""

    mean: Array
    """Running mean, from zero."""
    var: Array
    """Running variance, from zero."""
    n: Array
    """How many losses were seen, int32."""


def init() -> LossStatistics:
    """Before the first loss."""
    zero = jnp.zeros((), jnp.float32)
    return LossStatistics(zero, zero, jnp.zeros((), jnp.int32))


def update(s: LossStatistics, loss: Float[Array, ""], decay: float) -> LossStatistics:
    """The statistics after one more loss, which counts as at most 1e15 either way: its square must fit float32."""
    bounded = jnp.clip(loss, -1e15, 1e15)
    average = decay * s.mean + (1.0 - decay) * bounded
    new = LossStatistics(average, decay * s.var + (1.0 - decay) * (average - bounded) ** 2, s.n + 1)
    return jax.tree.map(lambda old, new: jnp.where(jnp.isfinite(loss), new, old), s, new)


def mean(s: LossStatistics, decay: float, eps: float) -> Float[Array, ""]:
    """Mean without the bias of its start; 0 before the first loss."""
    return s.mean / weight(s.n, decay, eps)


def deviations(s: LossStatistics, losses: Float[Array, " n"], decay: float, eps: float) -> Float[Array, " n"]:
    """Losses as deviations from the mean in standard deviations, within +-5."""
    scale = jax.lax.rsqrt(s.var / weight(s.n, decay, eps) + 1e-8)
    return jnp.where(jnp.isfinite(losses), jnp.clip((losses - mean(s, decay, eps)) * scale, -5.0, 5.0), 0.0)


def weight(n: Int[Array, ""], decay: float, eps: float = 0.0) -> Float[Array, ""]:
    """1 - decay^n + eps, the sum of the weights of n values in a running mean.

    By expm1: XLA would fold the constants 1 and eps into 1, and 0 values would divide by 0.
    """
    return eps - jnp.expm1(n.astype(jnp.float32) * np.float32(np.log(decay)))
