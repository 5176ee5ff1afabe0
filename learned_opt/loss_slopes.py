"""How fast the training loss falls: averages of its logarithm over ten time scales, and how they differ.

This project's own. With half-lives h_0 … h_9 from 10 to `num_steps` updates as in `loss_features`, d_i = exp(-1 / h_i),
and k the number of losses seen before:

    l      = log |loss|, within 2 of c_0 from k = 1 on            a spike counts as a factor of e^2
    means <- d means + (1 - d) l,   c = means / (1 - d^(k+1)),   k <- k + 1
    f_i    = clip(c_i - c_{i+1}, -1, 1)    i = 0 … 8

Negative while the loss falls, and about as much for a loss of 1e-3 as for one of 1e3; the features of VeLO, which
compare losses themselves, are all at -1 for long after a loss that began high. A loss that is zero, as of a batch in
which nothing counts, or not finite is left out. The logarithm says nothing of a loss that crosses zero.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt.loss_features import SCALES, WIDTH, half_lives

__all__ = ["WIDTH", "LogAverages", "features", "half_lives", "init", "update"]

LEAST = 1e-30
"""Losses below it count as zero."""
SPIKE = 2.0
"""The most by which one loss differs from the fastest average, in nats."""


class LogAverages(NamedTuple):
    """Averages of the logarithms of the losses seen so far."""

    k: Array
    """How many losses were seen, int32 scalar."""
    means: Array
    """Averages that began at zero, shape [10]."""


def init() -> LogAverages:
    """Before the first loss."""
    return LogAverages(jnp.zeros((), jnp.int32), jnp.zeros((SCALES,), jnp.float32))


def _corrected(averages: LogAverages, h: Float[Array, " 10"]) -> Float[Array, " 10"]:
    k, means = averages
    return means / -jnp.expm1(-jnp.maximum(k, 1) / h)


def update(averages: LogAverages, loss: Float[Array, ""], h: Float[Array, " 10"]) -> LogAverages:
    """The averages after one more loss."""
    k, means = averages
    now, before = jnp.log(jnp.maximum(jnp.abs(loss), LEAST)), _corrected(averages, h)[0]
    now = jnp.where(k == 0, now, jnp.clip(now, before - SPIKE, before + SPIKE))
    d = jnp.exp(-1.0 / h)
    new = LogAverages(k + 1, d * means - jnp.expm1(-1.0 / h) * now)
    told = jnp.isfinite(loss) & (jnp.abs(loss) >= LEAST)
    return jax.tree.map(lambda old, new: jnp.where(told, new, old), averages, new)


def features(averages: LogAverages, h: Float[Array, " 10"]) -> Float[Array, " 9"]:
    """f_0 … f_8."""
    c = _corrected(averages, h)
    return jnp.clip(c[:-1] - c[1:], -1.0, 1.0)
