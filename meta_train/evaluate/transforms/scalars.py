"""Scalars as vectors of one element, for transforms that index the axes of a parameter."""

from typing import Any

import jax
import optax

PyTree = Any


def scalars_as_vectors(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on parameters of which scalars have shape (1,); it must not read extra arguments."""
    lift = lambda tree: jax.tree.map(lambda x: x.reshape(x.shape or (1,)), tree)

    def init(params: PyTree) -> PyTree:
        return inner.init(lift(params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, PyTree]:
        g = updates
        u, state = inner.update(lift(g), state, None if params is None else lift(params))
        return jax.tree.map(lambda u, g: u.reshape(g.shape), u, g), state

    return optax.GradientTransformation(init, update)
