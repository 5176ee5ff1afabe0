"""The small network applied to every parameter, in the plain form: the reference that fused forms are tested against.

    x_k <- x_k / sqrt(eps + mean(x_k^2))       every channel k, mean over the tensor
    h   <- relu(concat[x, c] W_0 + b_0), …     c: inputs that are the same for the whole tensor
    o    = h W_L + b_L

It makes every channel in full: F floats per parameter.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt.features import Block, product


class Layer(NamedTuple):
    """Weights of a linear layer."""

    w: Array
    """Shape [inputs, outputs]."""
    b: Array
    """Shape [outputs]."""


EXACT = jax.lax.Precision.HIGHEST
"""Accelerators would multiply these small matrices at half the digits."""

PerParameterMLP = Callable[..., tuple[Array, ...]]
"""`(blocks, constants, layers, *, shape, eps) -> outputs`: `apply` below and its fused twins."""


def apply(
    blocks: tuple[Block, ...],
    constants: Float[Array, " C"],
    layers: tuple[Layer, ...],
    *,
    shape: tuple[int, ...],
    eps: float = 1e-5,
) -> tuple[Array, ...]:
    """Outputs of the network for every parameter of one tensor.

    Args:
      blocks: F channels in all, each a product of factors that broadcasts to `shape`.
      constants: inputs shared by all parameters of the tensor, not normalised; they follow the channels.
      layers: weights; the first layer takes F + C inputs; ReLU between layers.
      shape: shape of the tensor.
      eps: added to the mean square of a channel before dividing by its root.

    Returns:
      one array of `shape` per output of the last layer.
    """
    values = [product(block) for block in blocks]
    x = jnp.concatenate([jnp.broadcast_to(value, (value.shape[0], *shape)) for value in values])
    x = jnp.moveaxis(x, 0, -1)
    axes = tuple(range(len(shape)))
    x = x * jax.lax.rsqrt(eps + jnp.mean(x * x, axis=axes, keepdims=True))
    x = jnp.concatenate([x, jnp.broadcast_to(constants, (*shape, *constants.shape))], axis=-1)
    for layer in layers[:-1]:
        x = jax.nn.relu(
            jnp.tensordot(x, layer.w, axes=1, precision=EXACT) + jnp.reshape(layer.b, (1,) * len(shape) + (-1,))
        )
    x = jnp.tensordot(x, layers[-1].w, axes=1, precision=EXACT) + jnp.reshape(layers[-1].b, (1,) * len(shape) + (-1,))
    return tuple(x[..., i] for i in range(x.shape[-1]))
