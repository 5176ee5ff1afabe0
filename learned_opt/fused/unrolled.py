"""The per-parameter network as one elementwise expression that XLA fuses into a single loop.

With n_k = 1 / sqrt(eps + mean(x_k^2)) the first layer is

    a_j = sum_k x_k (n_k W_kj)  +  (c W_c + b)_j

so the normalisation costs nothing per parameter, and no channel of the size of the tensor is ever stored:

- channels that vary only along some axes (row and column statistics) are summed at their own size, before
  the tensor-sized terms;
- the others stay separate arrays, and layers of a few units are written out as scalar-times-array sums;
- mean squares of a product with row and column factors are contracted one axis at a time.

Tensors of at most `TINY` elements go through the reference: there it runs as fast and compiles in half the time.
"""

import math
import string

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from learned_opt import network
from learned_opt.features import Block, product
from learned_opt.network import EXACT, Layer

TINY = 128
"""Elements."""


def apply(
    blocks: tuple[Block, ...],
    constants: Float[Array, " C"],
    layers: tuple[Layer, ...],
    *,
    shape: tuple[int, ...],
    eps: float = 1e-5,
) -> tuple[Array, ...]:
    """Same arguments and result as `learned_opt.network.apply`."""
    if math.prod(shape) <= TINY:
        return network.apply(blocks, constants, layers, shape=shape, eps=eps)
    first, *rest = layers
    values = [product(block) for block in blocks]
    # One division for all channels: apart, each would be a kernel of its own.
    sizes = np.repeat([max(x[0].size, 1) for x in values], [x.shape[0] for x in values]).astype(np.float32)
    mean_squares = jnp.concatenate([_sum_of_squares(block) for block in blocks]) / sizes
    scale = jax.lax.rsqrt(eps + mean_squares)
    w = first.w[: scale.size] * scale[:, None]
    offset = jnp.matmul(constants, first.w[scale.size :], precision=EXACT) + first.b

    h = [offset[j] for j in range(offset.size)]
    rows = iter(range(scale.size))
    terms = [(x[i], w[next(rows)]) for x in values for i in range(x.shape[0])]
    # Smallest arrays first: the sums stay vectors until the tensor-sized terms are added.
    for size in sorted({x.shape for x, _ in terms}, key=lambda s: (math.prod(s), s)):
        group = [(x, weights) for x, weights in terms if x.shape == size]
        h = [a + sum(x * weights[j] for x, weights in group) for j, a in enumerate(h)]
    for layer in rest:
        h = [jnp.maximum(x, 0.0) for x in h]
        h = [layer.b[j] + sum(x * layer.w[i, j] for i, x in enumerate(h)) for j in range(layer.b.size)]
    return tuple(jnp.broadcast_to(x, shape) for x in h)


def _sum_of_squares(block: Block) -> Float[Array, " channels"]:
    """Sum of squares per channel; factors that lack an axis are contracted with the others along it."""
    if len(block) == 1:
        (x,) = block
        return jnp.sum(x * x, axis=tuple(range(1, x.ndim)))
    shape = jnp.broadcast_shapes(*(x.shape for x in block))
    axes = string.ascii_letters[: len(shape)]
    present = ["".join(a for a, n, m in zip(axes, x.shape, shape, strict=True) if n == m) for x in block]
    squares = [
        jnp.squeeze(x * x, [i for i, a in enumerate(axes) if a not in p]) for x, p in zip(block, present, strict=True)
    ]
    return jnp.einsum(f"{','.join(present)}->{axes[0]}", *squares, precision=EXACT)
