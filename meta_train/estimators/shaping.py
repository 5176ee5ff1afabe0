"""What becomes of differences of losses before they weight the noise.

Every (pair, noise block) of a window has a mean difference per step, m. A shaping replaces m, so it never reaches
across a reset or a redraw. All but `NONE` change the length of the gradient, and so its weight beside other tasks, and
bias it: they are for meta-optimizers that normalise, such as Adam. `RUNNING` keeps the windows of a task in their
proportions; the others do not, so that the early and the late windows of an episode count alike however much there is
at stake, which prefers weights that are quick over those that end low.
"""

from enum import Enum

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Shaping(Enum):
    """How m is replaced."""

    NONE = "none"
    """m: unbiased."""
    SIGN = "sign"
    """sign(m), as VeLO was trained with (Metz et al. 2022, arXiv:2211.09760)."""
    RANK = "rank"
    """sign(m) r / n, where r is the rank of |m| among the n blocks (1 the smallest, ties share the highest): the
    signed ranks of Wilcoxon, since losses of different tasks and phases cannot be ranked together, differences can."""
    STANDARDISED = "standardised"
    """m / sqrt(mean m^2): invariant to the scale of the loss; of a pair the mean is zero by symmetry."""
    RUNNING = "running"
    """m / sqrt(running mean of mean m^2 over about `MEMORY` windows, this one included): the same, window after window
    in proportion."""


MEMORY = 50.0
"""Windows that the running mean of `RUNNING` remembers."""


def remember(scale: Float[Array, " 2"], m: Float[Array, "N slots"], present: Bool[Array, "N slots"]) -> Array:
    """The running sum of mean m^2, and of what it has to be divided by, after one more window; zeros to begin with."""
    mean_square = jnp.sum(jnp.where(present, m * m, 0.0)) / jnp.maximum(jnp.sum(present), 1)
    decay = 1.0 - 1.0 / MEMORY
    return decay * scale + (1.0 - decay) * jnp.stack([mean_square, jnp.ones_like(mean_square)])


def by_running(scale: Float[Array, " 2"], m: Float[Array, "N slots"]) -> Float[Array, "N slots"]:
    """m in units of the running root mean square; 0 where that is."""
    mean_square = scale[0] / jnp.maximum(scale[1], jnp.finfo(scale.dtype).tiny)
    return jnp.where(mean_square > 0, m / jnp.sqrt(jnp.where(mean_square > 0, mean_square, 1.0)), 0.0)


def shape(shaping: Shaping, m: Float[Array, "N slots"], present: Bool[Array, "N slots"]) -> Float[Array, "N slots"]:
    """The replaced m; entries that are not `present` have no steps and stay zero."""
    n = jnp.maximum(jnp.sum(present), 1)
    match shaping:
        case Shaping.NONE | Shaping.RUNNING:  # the latter where the state is known
            return m
        case Shaping.SIGN:
            return jnp.sign(m)
        case Shaping.RANK:
            size = jnp.where(present, jnp.abs(m), jnp.inf).ravel()
            rank = jnp.searchsorted(jnp.sort(size), size, side="right").reshape(m.shape)
            return jnp.where(present, jnp.sign(m) * rank / n, 0.0).astype(m.dtype)
        case Shaping.STANDARDISED:
            mean_square = jnp.sum(jnp.where(present, m * m, 0.0)) / n
            return jnp.where(mean_square > 0, m / jnp.sqrt(jnp.where(mean_square > 0, mean_square, 1.0)), 0.0)
