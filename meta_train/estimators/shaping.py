"""What becomes of differences of losses before they weight the noise.

Every (pair, noise block) of a window has a mean difference per step, m. A shaping replaces m, so it never reaches
across a reset or a redraw. All but `NONE` change the length of the gradient, and so its weight beside other tasks, and
bias it: they are for meta-optimizers that normalise, such as Adam.
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


def shape(shaping: Shaping, m: Float[Array, "N slots"], present: Bool[Array, "N slots"]) -> Float[Array, "N slots"]:
    """The replaced m; entries that are not `present` have no steps and stay zero."""
    n = jnp.maximum(jnp.sum(present), 1)
    match shaping:
        case Shaping.NONE:
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
