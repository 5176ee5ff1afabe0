"""MARS, the AdamW version with stored gradients (Yuan, Liu, Wu, Zhou, Gu 2024, arXiv:2411.10438, algorithm 2).

    c_t = g_t + gamma b1 / (1 - b1) (g_t - g_{t-1})
    c_t <- c_t / max(1, ||c_t||)                     the norm of a tensor
    m_t = b1 m_{t-1} + (1 - b1) c_t
    v_t = b2 v_{t-1} + (1 - b2) c_t^2
    u_t = m_t / (1 - b1^t) / (sqrt(v_t / (1 - b2^t)) + eps)

g_{t-1} is the stored gradient of the last batch ("MARS-approx"), where the exact version takes the gradient of
this batch at the last parameters. The correction of the first step is zero, since x_0 = x_1 in the paper. The
published code gives vectors to AdamW unless told otherwise; here, as in the algorithm, all tensors are alike.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

PyTree = Any


class MarsState(NamedTuple):
    """State of `scale_by_mars`."""

    t: Int[Array, ""]
    """t, updates made."""
    m: PyTree
    """Momentum of the clipped c, as the parameters."""
    v: PyTree
    """Mean square of the clipped c, as the parameters."""
    last: PyTree
    """g_{t-1}, as the parameters."""


def scale_by_mars(
    b1: float = 0.95, b2: float = 0.99, gamma: float = 0.025, eps: float = 1e-8
) -> optax.GradientTransformation:
    """The direction u_t; defaults of the paper."""

    def init(params: PyTree) -> MarsState:
        zeros = optax.tree.zeros_like
        return MarsState(jnp.zeros((), jnp.int32), zeros(params), zeros(params), zeros(params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, MarsState]:
        del params
        g = updates
        t = state.t + 1
        scale = jnp.where(t == 1, 0.0, gamma * b1 / (1.0 - b1))

        def corrected(g: Array, last: Array) -> Array:
            c = g + scale.astype(g.dtype) * (g - last)
            return c / jnp.maximum(1.0, jnp.sqrt(jnp.sum(c * c)))

        c = jax.tree.map(corrected, g, state.last)
        m = optax.tree.update_moment(c, state.m, b1, 1)
        v = optax.tree.update_moment(c, state.v, b2, 2)
        m_hat, v_hat = optax.tree.bias_correction(m, b1, t), optax.tree.bias_correction(v, b2, t)
        u = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), m_hat, v_hat)
        return u, MarsState(t, m, v, g)

    return optax.GradientTransformation(init, update)
