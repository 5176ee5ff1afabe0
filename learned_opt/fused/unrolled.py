"""The per-parameter network as one elementwise expression that XLA fuses into a single loop.

With n_k = 1 / sqrt(eps + mean(x_k^2)) the first layer is

    a_j = sum_k x_k (n_k W_kj)  +  (c W_c + b)_j

so the normalisation costs nothing per parameter, and no channel of the size of the tensor is ever stored:

- channels that vary only along some axes (row and column statistics) are summed at their own size, before
  the tensor-sized terms;
- the others stay separate arrays, and layers of a few units are written out as scalar-times-array sums.
"""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt.features import Channel
from learned_opt.network import Layer, product


def apply(
    channels: tuple[Channel, ...],
    constants: Float[Array, " C"],
    layers: tuple[Layer, ...],
    *,
    shape: tuple[int, ...],
    eps: float = 1e-5,
) -> tuple[Array, ...]:
    """Same arguments and result as `learned_opt.network.apply`."""
    first, *rest = layers
    mean_squares = jnp.stack([_mean_square(channel) for channel in channels])
    w = first.w[: len(channels)] * jax.lax.rsqrt(eps + mean_squares)[:, None]
    offset = constants @ first.w[len(channels) :] + first.b

    values = [product(channel) for channel in channels]
    # Smallest arrays first: the sums stay vectors until the tensor-sized terms are added.
    order = sorted(range(len(values)), key=lambda k: (values[k].size, values[k].shape))
    h = [offset[j] for j in range(offset.size)]
    for _, same_shape in itertools.groupby(order, key=lambda k: values[k].shape):
        ks = list(same_shape)
        h = [x + sum(values[k] * w[k, j] for k in ks) for j, x in enumerate(h)]
    for layer in rest:
        h = [jnp.maximum(x, 0.0) for x in h]
        h = [layer.b[j] + sum(x * layer.w[i, j] for i, x in enumerate(h)) for j in range(layer.b.size)]
    return tuple(jnp.broadcast_to(x, shape) for x in h)


def _mean_square(channel: Channel) -> Float[Array, ""]:
    x = product(channel)
    return jnp.mean(x * x)
