"""The per-parameter network as one elementwise expression that XLA fuses into a single loop.

With n_k = 1 / sqrt(eps + mean(x_k^2)) the first layer is

    a_j = sum_k x_k (n_k W_kj)  +  (c W_c + b)_j

so the normalisation costs nothing per parameter, and no channel of the size of the tensor is ever stored:

- channels that vary only along some axes (row and column statistics) are summed at their own size, before
  the tensor-sized terms;
- the others stay expressions of separate arrays, and layers of a few units are written out as sums.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt.features import Block
from learned_opt.fused import normalise
from learned_opt.network import EXACT, Layer


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
    first, *rest = layers
    scale = normalise.scales(blocks, shape, eps, axes)
    w = scale[:, None] * jnp.expand_dims(first.w[: scale.shape[0]], tuple(range(2, 2 + len(shape))))
    if w.shape[2:] == (1,) * len(shape):
        w = w.reshape(w.shape[:2])  # numbers, rather than arrays of one
    offset = jnp.matmul(constants, first.w[scale.shape[0] :], precision=EXACT) + first.b

    values = [block.value(*block.arrays) for block in blocks]
    terms = [x[i] for x in values for i in range(x.shape[0])]
    h = [offset[j] for j in range(offset.size)]
    # Smallest arrays first: the sums stay vectors until the tensor-sized terms are added.
    for size in sorted({x.shape for x in terms}, key=lambda s: (math.prod(s), s)):
        group = [k for k, x in enumerate(terms) if x.shape == size]
        h = [a + sum(terms[k] * w[k, j] for k in group) for j, a in enumerate(h)]
    for layer in rest:
        h = [jnp.maximum(x, 0.0) for x in h]
        h = [layer.b[j] + sum(x * layer.w[i, j] for i, x in enumerate(h)) for j in range(layer.b.size)]
    outputs = [jnp.broadcast_to(x, shape) for x in h]
    whole = len(outputs) - averaged
    return (*outputs[:whole], *map(jnp.mean, outputs[whole:]))
