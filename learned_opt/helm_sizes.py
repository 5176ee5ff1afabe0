"""What a tensor counts as where it is zero, so that relative steps of it are steps: U and v of `learned_opt.Helm`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from learned_opt.helm_inputs import TINY, UNKNOWN

PyTree = Any

SURROGATE = 0.02
"""Of a model that starts at zero, the least share of U that counts: a surrogate loss may be 0 and says no distance."""


def origin(params: PyTree) -> Float[Array, ""]:
    """U of a model whose matrices all start at zero, or that has none; 0 of the others."""
    log, count, matrices = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
    for p in jax.tree.leaves(params):
        square = jnp.sum(jnp.square(jnp.asarray(p, jnp.float32))) / max(1, jnp.size(p))
        log += jnp.where(square > TINY, 0.5 * jnp.log(jnp.maximum(square, TINY)), 0.0)
        count += square > TINY
        matrices += (square > TINY) & (jnp.ndim(p) >= 2)
    return jnp.where(matrices > 0, 0.0, jnp.maximum(1.0, jnp.exp(log / jnp.maximum(count, 1.0))))


def at_zero(z: Array, p: Array, unit: Array, origin: Array, leaves: list[Any]) -> Float[Array, " tensors"]:
    """v: what a tensor counts as where it is zero, in its own units; 0 where no gradient has been seen.

    Args:
      z: see `Theta`; it speaks of models with matrices that are not zero at the start.
      p: mean(p^2) of every tensor.
      unit: u; a gradient that is only rounding, as of a bias before a batch norm, makes it huge, and U then bounds v.
      origin: see `State`.
      leaves: the parameters.
    """
    fan_in = np.array([max(1, jnp.size(x) // max(1, x.shape[-1])) if jnp.ndim(x) else 1 for x in leaves], np.float32)
    matrix = np.array([jnp.ndim(x) >= 2 for x in leaves])
    nonzero = p > TINY
    counted = nonzero & matrix
    logs = jnp.where(counted, 0.5 * jnp.log(jnp.maximum(p, TINY) * fan_in), 0.0)
    u = jnp.where(unit < UNKNOWN, unit, 0.0)
    U = jnp.where(origin > 0, origin, jnp.exp(jnp.sum(logs) / jnp.maximum(jnp.sum(counted), 1)))
    typical = jnp.where(origin > 0, 1.0, jnp.exp(z[0])) * U / np.sqrt(fan_in)
    return jnp.minimum(typical, jnp.where(origin > 0, jnp.maximum(u, SURROGATE * typical), jnp.exp(z[1]) * u))
