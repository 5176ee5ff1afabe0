"""The per-parameter network of wide layers: matrix products on a part of the tensor at a time, in a loop.

Axis 0 of the tensor, of length A k, is seen as [A, k] and the loop runs over k: each part holds every k-th slice, so a
tensor that is sharded along axis 0 is cut within its shards, and one sharded along another axis stays as it is.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt.features import Block
from learned_opt.fused import normalise
from learned_opt.network import Layer, feed_forward

ELEMENTS = 1 << 14
"""Parameters in one part, about: its features fit into the caches, and its products are worth a call."""


def apply(
    blocks: tuple[Block, ...],
    constants: Float[Array, " C"],
    layers: tuple[Layer, ...],
    *,
    shape: tuple[int, ...],
    eps: float = 1e-5,
    axes: tuple[int, ...] | None = None,
    averaged: int = 0,
) -> tuple[Array, ...]:
    """Same arguments and result as `learned_opt.network.apply`."""
    part = part_of(shape)
    length, *rest = shape
    count = length // part
    scale = normalise.scales(blocks, shape, eps, axes)
    whole = layers[-1].b.shape[0] - averaged

    def cut(x: Array) -> Array:
        return x if x.shape[1] == 1 else jnp.reshape(x, (x.shape[0], part, count, *x.shape[2:]))

    arrays = [tuple(map(cut, block.arrays)) for block in blocks]
    scale = cut(scale)

    def body(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        take = lambda x: x if x.ndim == 1 + len(shape) else jax.lax.dynamic_index_in_dim(x, i, 2, keepdims=False)
        values = [block.value(*map(take, xs)) for block, xs in zip(blocks, arrays, strict=True)]
        x = jnp.concatenate([jnp.broadcast_to(v, (v.shape[0], part, *rest)) for v in values])
        o = jnp.moveaxis(feed_forward(jnp.moveaxis(x * take(scale), 0, -1), constants, layers), -1, 0)
        outputs, sums = carry
        outputs = jax.lax.dynamic_update_index_in_dim(outputs, o[:whole], i, 2)
        return outputs, sums + jnp.sum(o[whole:], axis=tuple(range(1, 1 + len(shape))))

    # A zero of the tensor's, for its sharding.
    zero = 0.0 * jax.lax.slice_in_dim(arrays[0][0], 0, 1)
    start = (jnp.broadcast_to(zero, (whole, part, count, *rest)), jnp.zeros((averaged,), jnp.float32))
    outputs, sums = jax.lax.fori_loop(0, count, body, start)
    outputs = jnp.reshape(outputs, (whole, *shape))
    return (*(outputs[i] for i in range(whole)), *(sums[i] / math.prod(shape) for i in range(averaged)))


def part_of(shape: tuple[int, ...]) -> int:
    """How much of axis 0 makes a part: a divisor of its length; all of it where none gives parts worth a call."""
    length, *rest = shape
    rest = max(math.prod(rest), 1)
    most = max(ELEMENTS // rest, 1)
    part = max(d for d in range(1, min(length, most) + 1) if length % d == 0)
    return part if part * rest >= ELEMENTS // 64 else length
