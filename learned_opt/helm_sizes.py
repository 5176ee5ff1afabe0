"""What a tensor counts as where it is zero, so that its relative steps are steps: u, U, v of `learned_opt.Helm`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from learned_opt.helm_inputs import TINY, UNKNOWN, Seen

PyTree = Any

SURROGATE = 0.02
"""The least share of U that counts in a model that starts at zero, and where the loss says no distance."""


def origin(params: PyTree) -> Float[Array, ""]:
    """U of a model whose matrices all start at zero, or that has none; 0 of the others."""
    log, count, matrices = (jnp.zeros((), jnp.float32) for _ in range(3))
    for p in jax.tree.leaves(params):
        square = jnp.sum(jnp.square(jnp.asarray(p, jnp.float32))) / max(1, jnp.size(p))
        log += jnp.where(square > TINY, 0.5 * jnp.log(jnp.maximum(square, TINY)), 0.0)
        count += square > TINY
        matrices += (square > TINY) & (jnp.ndim(p) >= 2)
    return jnp.where(matrices > 0, 0.0, jnp.maximum(1.0, jnp.exp(log / jnp.maximum(count, 1.0))))


def distance(
    unit: Float[Array, " tensors"], origin: Array, signed: Array, seen: Seen, loss: Array, leaves: list[Any]
) -> tuple[Float[Array, " tensors"], Bool[Array, ""]]:
    """u and `signed` after this step: how far the loss is away in every tensor alone, were it linear.

    The least of all steps with a gradient (a batch without one, as of rare events, says nothing); the largest where the
    tensors' own size says little (`origin`), and where the loss does: what has a gradient and is negative, or zero at
    the first step, as the surrogate of a policy gradient or a log density, is no distance. Zero later is rounding.

    Args:
      unit: u before; `UNKNOWN` before the first gradient.
      origin: see `State`.
      signed: whether any loss before was no distance.
      seen: of every tensor.
      loss: of this step.
      leaves: the parameters.
    """
    n = np.array([max(1, jnp.size(p)) for p in leaves], np.float32)
    zero = (loss == 0.0) & jnp.all(unit >= UNKNOWN)
    signed = signed | (jnp.isfinite(loss) & ((loss < 0.0) | zero) & jnp.any(seen.g > TINY))
    known = jnp.isfinite(loss) & (seen.g > TINY) & ((loss != 0.0) | signed)
    here = jnp.where(known, jnp.abs(loss) / (n * jnp.sqrt(jnp.maximum(seen.r, TINY))), UNKNOWN)
    largest = ((origin > 0) | signed) & known & (unit < UNKNOWN)
    return jnp.where(largest, jnp.maximum(unit, here), jnp.minimum(unit, here)), signed


def at_zero(
    z: Array, p: Array, unit: Array, origin: Array, signed: Array, leaves: list[Any]
) -> Float[Array, " tensors"]:
    """v: what a tensor counts as where it is zero, in its own units; 0 or its least where no gradient has been seen.

    Args:
      z: see `Theta`; it speaks of models with matrices that are not zero at the start.
      p: mean(p^2) of every tensor.
      unit: u; a gradient that is only rounding, as of a bias before a batch norm, makes it huge, and U then bounds v.
      origin: see `State`.
      signed: see `State`.
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
    least = jnp.where((origin > 0) | signed, SURROGATE * typical, 0.0)
    return jnp.minimum(typical, jnp.maximum(jnp.where(origin > 0, 1.0, jnp.exp(z[1])) * u, least))
