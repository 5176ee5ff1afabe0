"""What a rule knows of the course of the training loss: averages over ten time scales, and how they compare.

Metz et al. 2022, "VeLO" (arXiv:2211.09760). With half-lives h_0 … h_9 from 10 to `num_steps` updates, spaced evenly in
their logarithms, d_i = exp(-1 / h_i), and k the number of losses seen before:

    A      = max_i means_i / (1 - d_i^(k+1)), the loss itself for k = 0
    l      = min(2 |A|, loss)                                a spike counts as twice the largest average
    means  <- d means + (1 - d) l,   c = means / (1 - d^(k+1)),   lowest <- min(lowest, c),   k <- k + 1
    f_i    = clip((c_i - lowest_i) / max(1e-8, c_{i+1} - lowest_i) - 1, -1, 1)    i = 0 … 8; all 0 while k <= 2

A division by 1 - d^(k+1) where the averages still have k terms is how the published code does it. A loss that is not
finite is left out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

SCALES = 10
"""Number of averages."""
WIDTH = SCALES - 1
"""Number of features."""


class LossAverages(NamedTuple):
    """Averages of the losses seen so far."""

    k: Array
    """How many losses were seen, int32 scalar."""
    means: Array
    """Averages that began at zero, shape [10]."""
    lowest: Array
    """The smallest value that each corrected average had, shape [10]."""


def init() -> LossAverages:
    """Before the first loss."""
    full = lambda value: jnp.full((SCALES,), value, jnp.float32)
    return LossAverages(jnp.zeros((), jnp.int32), full(0.0), full(999999999999.0))


def half_lives(num_steps: Int[Array, ""] | int | None) -> Float[Array, " 10"]:
    """Half-lives in updates for a training run of `num_steps`; a number below 1 counts as 1."""
    steps = jnp.maximum(jnp.asarray(num_steps, jnp.float32), 1.0)
    return 10.0 ** jnp.linspace(jnp.float32(1.0), jnp.log10(steps), SCALES)


def update(averages: LossAverages, loss: Float[Array, ""], h: Float[Array, " 10"]) -> LossAverages:
    """The averages after one more loss."""
    k, means, lowest = averages
    correction = -jnp.expm1(-(k + 1) / h)
    largest = jnp.where(k == 0, loss, jnp.max(means / correction))
    clipped = jnp.minimum(2.0 * jnp.abs(largest), loss)
    d = jnp.exp(-1.0 / h)
    means = d * means - jnp.expm1(-1.0 / h) * clipped
    new = LossAverages(k + 1, means, jnp.minimum(lowest, means / correction))
    return jax.tree.map(lambda old, new: jnp.where(jnp.isfinite(loss), new, old), averages, new)


def features(averages: LossAverages, h: Float[Array, " 10"]) -> Float[Array, " 9"]:
    """f_0 … f_8."""
    k, means, lowest = averages
    c = means / -jnp.expm1(-jnp.maximum(k, 1) / h)
    f = (c[:-1] - lowest[:-1]) / jnp.maximum(1e-8, c[1:] - lowest[:-1]) - 1.0
    return jnp.where(k <= 2, 0.0, jnp.clip(f, -1.0, 1.0))
