"""The per-parameter network without storing features: the same arguments and results as `learned_opt.network.apply`.

Which form is cheapest depends on two static numbers, the size of the tensor and the width of the network.
"""

import math

from jaxtyping import Array, Float

from learned_opt import network
from learned_opt.features import Block
from learned_opt.fused import chunked, unrolled
from learned_opt.network import Layer

TINY, TINY_VECTOR = 128, 4096
"""Elements up to which the plain network runs as fast, or nearly, and compiles in a fraction of the time: of any
tensor, and of a vector."""
NARROW = 8
"""Units of a hidden layer up to which layers are written out as scalar-times-array sums."""

__all__ = ["NARROW", "TINY", "TINY_VECTOR", "apply"]


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
    if math.prod(shape) <= (TINY_VECTOR if len(shape) == 1 else TINY):
        form = network.apply
    elif max(layer.b.shape[0] for layer in layers) <= NARROW and not averaged:
        form = unrolled.apply
    else:
        form = chunked.apply
    return form(blocks, constants, layers, shape=shape, eps=eps, axes=axes, averaged=averaged)
