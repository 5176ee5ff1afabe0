"""Cautious optimizers (Liang, Chen, Liu, Liu 2024, arXiv:2411.16085, algorithm 1): no step against the gradient.

    phi_t = 1[u_t o g_t > 0]
    u_t  <- u_t o phi_t d / (|phi_t|_1 + 1)

u_t is the ascent direction of the optimizer inside and d the number of entries of a tensor: what stays is scaled
up by the share that stays. It keeps no state of its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def cautious(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The ascent direction of `inner` (such as `optax.scale_by_adam()`) where it agrees with the gradient."""
    inner = optax.with_extra_args_support(inner)

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        g = updates
        u, state = inner.update(g, state, params, **extra)

        def masked(u: jax.Array, g: jax.Array) -> jax.Array:
            phi = (u * g > 0).astype(u.dtype)
            return u * phi * (u.size / (jnp.sum(phi) + 1.0))

        return jax.tree.map(masked, u, g), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
