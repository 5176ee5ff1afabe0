"""The small network applied to every parameter, in the plain form: the reference that fused forms are tested against.

    x_k <- x_k / sqrt(eps + mean(x_k^2))       every channel k, mean over the tensor or some axes of it
    h   <- relu(concat[x, c] W_0 + b_0), …     c: inputs that are the same for the whole tensor
    o    = h W_L + b_L

It makes every channel in full: F floats per parameter.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt.features import Block


class Layer(NamedTuple):
    """Weights of a linear layer."""

    w: Array
    """Shape [inputs, outputs]."""
    b: Array
    """Shape [outputs]."""


EXACT = jax.lax.Precision.HIGHEST
"""Accelerators would multiply these small matrices at half the digits."""

PerParameterMLP = Callable[..., tuple[Array, ...]]
"""`apply` below and its fused twins."""


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
    """Outputs of the network for every parameter of one tensor.

    Args:
      blocks: F channels in all, that broadcast to `shape`.
      constants: inputs shared by all parameters of the tensor, not normalised; they follow the channels.
      layers: weights; the first layer takes F + C inputs; ReLU between layers.
      shape: shape of the tensor.
      eps: added to the mean square of a channel before dividing by its root.
      axes: axes of the tensor that the mean square is taken over; all by default.
      averaged: how many of the last outputs are only wanted as their mean over the tensor.

    Returns:
      one array of `shape` per output of the last layer; the last `averaged` ones are scalars.
    """
    values = [block.value(*block.arrays) for block in blocks]
    x = jnp.concatenate([jnp.broadcast_to(value, (value.shape[0], *shape)) for value in values])
    x = jnp.moveaxis(x, 0, -1)
    mean_square = jnp.mean(x * x, axis=tuple(range(len(shape))) if axes is None else axes, keepdims=True)
    x = x * jax.lax.rsqrt(eps + mean_square)
    o = feed_forward(x, constants, layers)
    outputs = [o[..., i] for i in range(o.shape[-1])]
    first = len(outputs) - averaged
    return (*outputs[:first], *map(jnp.mean, outputs[first:]))


def feed_forward(
    x: Float[Array, "*shape F"], constants: Float[Array, " C"], layers: tuple[Layer, ...]
) -> Float[Array, "*shape outputs"]:
    """The layers on normalised channels as matrix products; arguments as those of `apply`."""
    lead = (1,) * (x.ndim - 1)
    for i, (w, b) in enumerate(layers):
        if i == 0:
            b = b + jnp.matmul(constants, w[x.shape[-1] :], precision=EXACT)
            w = w[: x.shape[-1]]
        else:
            x = jax.nn.relu(x)
        x = jnp.tensordot(x, w, axes=1, precision=EXACT) + jnp.reshape(b, (*lead, -1))
    return x
