"""Matrices given as W + B A^T, that are multiplied by without being formed.

A network that multiplies by its weights through `matmul` takes either an array or such a matrix: under `vmap` with W
shared, the large product is made once for all members and each adds two thin ones.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlusLowRank:
    """W + B A^T. Where code asks for an array it becomes one, in full: correct, but no cheaper than W of its own."""

    w: Array
    """W, shape [m, n]."""
    b: Array
    """B, shape [m, r]."""
    a: Array
    """A, shape [n, r]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix."""
        return self.w.shape

    @property
    def dtype(self) -> Any:
        """Dtype of the matrix."""
        return self.w.dtype

    @property
    def ndim(self) -> int:
        """Axes of the matrix."""
        return self.w.ndim

    @property
    def size(self) -> int:
        """Entries of the matrix."""
        return self.w.size

    def __jax_array__(self) -> Array:
        return self.w + jnp.matmul(self.b, self.a.T, precision=jax.lax.Precision.HIGHEST).astype(self.w.dtype)

    def __rmatmul__(self, x: Array) -> Array:
        return matmul(x, self)


def matmul(x: Float[Array, "*rows m"], w: Any, *, precision: Any = None) -> Float[Array, "*rows n"]:
    """x W, for an array W of shape [m, n] or a `PlusLowRank`: x W + (x B) A^T."""
    if not isinstance(w, PlusLowRank):
        return jnp.matmul(x, w, precision=precision)
    thin = jnp.matmul(jnp.matmul(x, w.b, precision=precision), w.a.T, precision=precision)
    return jnp.matmul(x, w.w, precision=precision) + thin


def is_leaf(x: Any) -> bool:
    """Whether a node of a tree of weights stands for one matrix."""
    return isinstance(x, PlusLowRank)
