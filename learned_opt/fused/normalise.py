"""Mean squares of channels that are never stored: one reduction each, straight from the arrays they are made of."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from learned_opt.accumulators import fresh
from learned_opt.features import Block


def scales(
    blocks: tuple[Block, ...], shape: tuple[int, ...], eps: float, axes: tuple[int, ...] | None
) -> Float[Array, "F *shape"]:
    """1 / sqrt(eps + mean(x_k^2)) of all F channels, of length 1 along the axes of the mean.

    A channel that does not vary along an axis has its mean taken over what it is, a vector say.
    """
    over = tuple(range(len(shape))) if axes is None else tuple(axis % len(shape) for axis in axes)
    kept = tuple(1 if axis in over else n for axis, n in enumerate(shape))
    sums, sizes = [], []
    for block in blocks:
        total, size = _sum_of_squares(block, over)
        sums.append(jnp.broadcast_to(total, (total.shape[0], *kept)))
        sizes += [size] * total.shape[0]
    # One division for all channels: apart, each would be a kernel of its own.
    count = np.array(sizes, np.float32).reshape(-1, *(1,) * len(shape))
    return jax.lax.rsqrt(eps + jnp.concatenate(sums) / count)


def _sum_of_squares(block: Block, over: tuple[int, ...]) -> tuple[Array, int]:
    arrays = fresh(block.arrays)
    shape = np.broadcast_shapes(*(x.shape[1:] for x in arrays))
    size = max(math.prod(shape[axis] for axis in over), 1)
    if all(x.shape[0] == 1 for x in arrays):
        # Without its leading axis XLA reduces the expression itself, with it the squares would be stored first.
        x = block.value(*(x.reshape(x.shape[1:]) for x in arrays))
        return jnp.sum(x * x, axis=over, keepdims=True)[None], size
    x = block.value(*arrays)
    return jnp.sum(x * x, axis=tuple(axis + 1 for axis in over), keepdims=True), size
