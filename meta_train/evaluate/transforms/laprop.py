"""LaProp (Ziyin, Wang, Ueda 2020, arXiv:2002.04839, algorithm 1): momentum of normalised gradients.

    n_t = nu n_{t-1} + (1 - nu) g_t^2
    m_t = mu m_{t-1} + (1 - mu) g_t / (sqrt(n_t / (1 - nu^t)) + eps)
    u_t = m_t / (1 - mu^t)

Adam divides the momentum by the root of n_t; here each gradient is divided by the root of its own time, so that
mu and nu may be chosen apart.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

PyTree = Any


class LaPropState(NamedTuple):
    """State of `scale_by_laprop`."""

    t: Int[Array, ""]
    """t, updates made."""
    m: PyTree
    """Momentum of normalised gradients, as the parameters."""
    n: PyTree
    """Mean square of the gradients, as the parameters."""


def scale_by_laprop(mu: float = 0.9, nu: float = 0.999, eps: float = 1e-15) -> optax.GradientTransformation:
    """The direction u_t; defaults of the paper."""

    def init(params: PyTree) -> LaPropState:
        return LaPropState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, LaPropState]:
        del params
        g = updates
        t = state.t + 1
        n = optax.tree.update_moment(g, state.n, nu, 2)
        # A gradient that has been zero so far divides zero by eps.
        ratio = jax.tree.map(lambda g, n: g / (jnp.sqrt(n) + eps), g, optax.tree.bias_correction(n, nu, t))
        m = optax.tree.update_moment(ratio, state.m, mu, 1)
        return optax.tree.bias_correction(m, mu, t), LaPropState(t, m, n)

    return optax.GradientTransformation(init, update)
