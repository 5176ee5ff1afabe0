"""The recurrent network that steers the per-parameter networks: one LSTM shared by all tensors, which are its batch.

    i, g, f, o = split(concat[x, h] W + b)
    c' = sigmoid(f + 1) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(c')

Hochreiter & Schmidhuber 1997 with the forget bias of Jozefowicz et al. 2015; order of the gates as in `hk.LSTM`, which
published weights come from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from learned_opt import low_rank
from learned_opt.network import EXACT, Layer


class LSTMState(NamedTuple):
    """State of the LSTM."""

    hidden: Array
    """h, shape [tensors, units]."""
    cell: Array
    """c, shape [tensors, units]."""


def lstm(layer: Layer, x: Float[Array, "n inputs"], state: LSTMState) -> LSTMState:
    """One step of the LSTM with weights [inputs + units, 4 units]; its output is the new `hidden`."""
    i, g, f, o = jnp.split(linear(layer, jnp.concatenate([x, state.hidden], axis=-1)), 4, axis=-1)
    cell = jax.nn.sigmoid(f + 1.0) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)


def linear(layer: Layer, x: Float[Array, "n inputs"]) -> Float[Array, "n outputs"]:
    """x W + b; W is an array or a `low_rank.PlusLowRank`."""
    return low_rank.matmul(x, layer.w, precision=EXACT) + layer.b[None]


def initial_linear(key: Array, inputs: int, outputs: int) -> Layer:
    """Weights of `hk.Linear`: truncated normal of standard deviation 1/sqrt(inputs), zero bias."""
    w = jax.random.truncated_normal(key, -2.0, 2.0, (inputs, outputs), jnp.float32)
    return Layer(w / np.float32(np.sqrt(inputs)), jnp.zeros((outputs,), jnp.float32))


def initial_mlp(key: Array, sizes: tuple[int, ...]) -> tuple[Layer, ...]:
    """Layers of the given sizes, inputs first."""
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(initial_linear(k, n, m) for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True))


def tiled(state: LSTMState, tensors: int) -> LSTMState:
    """The state [1, units], learned as the start, for every tensor."""
    return LSTMState(*(jnp.broadcast_to(x, (tensors, x.shape[-1])) for x in state))
