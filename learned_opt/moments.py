"""Mean and variance of a tensor in passes that store nothing of its size."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt.accumulators import fresh


def mean_line(x: Float[Array, "*shape"]) -> Float[Array, "..."]:
    """The mean, as an array along axis 0, of length 1 along the others.

    A number that is subtracted from a tensor would first be spread over an array of its size.
    """
    rows = jnp.mean(x, axis=tuple(range(1, x.ndim)), keepdims=True)
    return jnp.mean(rows) + 0.0 * rows


def spread(x: Float[Array, "*shape"], mean: Float[Array, "..."]) -> Float[Array, ""]:
    """mean((x - mean)^2) for a `mean_line`, which may be another tensor's of the same shape."""
    x, mean = fresh((x, mean))
    return jnp.mean(jnp.square(x - mean))
