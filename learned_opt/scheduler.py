"""The recurrent scheduler of VeLO and Celo: an LSTM that sees each tensor, with the tensors mixed by a maximum.

Metz et al. 2022, "VeLO" (arXiv:2211.09760). For inputs X [tensors, inputs] and h units:

    v = max over tensors of relu(X W_1 + b_1)
    Z = X W_2 + b_2 + v
    h, c <- LSTM(Z, (h, c))            `learned_opt.recurrent`
    s = h W_s + b_s                    one number for each tensor: what the rule makes its size of step of

Published weights hold a further layer ("linear") that is computed and thrown away; here it is left out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt import recurrent
from learned_opt.network import Layer
from learned_opt.recurrent import LSTMState


class Scheduler(NamedTuple):
    """Weights of the scheduler."""

    initial: LSTMState
    """State before the first update, shape [1, units] each."""
    mix_1: Layer
    """Inputs -> units, under the maximum over tensors."""
    mix_2: Layer
    """Inputs -> units, each tensor's own."""
    lstm: Layer
    """2 units -> 4 units."""
    step_size: Layer
    """Units -> 1."""


def init(key: Array, inputs: int, units: int) -> Scheduler:
    """Weights before meta-training; the initial state is truncated normal of standard deviation 1/sqrt(units)."""
    k = jax.random.split(key, 6)
    start = lambda key: recurrent.initial_linear(key, units, 1).w.T
    return Scheduler(
        LSTMState(start(k[0]), start(k[1])),
        recurrent.initial_linear(k[2], inputs, units),
        recurrent.initial_linear(k[3], inputs, units),
        recurrent.initial_linear(k[4], 2 * units, 4 * units),
        recurrent.initial_linear(k[5], units, 1),
    )


def step(
    weights: Scheduler, x: Float[Array, "tensors inputs"], state: LSTMState
) -> tuple[Float[Array, " tensors"], LSTMState]:
    """s for every tensor, and the new state, whose `hidden` other layers may read."""
    v = jnp.max(jax.nn.relu(recurrent.linear(weights.mix_1, x)), axis=0, keepdims=True)
    state = recurrent.lstm(weights.lstm, recurrent.linear(weights.mix_2, x) + v, state)
    return recurrent.linear(weights.step_size, state.hidden)[:, 0], state
