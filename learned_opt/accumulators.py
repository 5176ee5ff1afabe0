"""Running statistics of the gradient that learned optimizers read: momentum, mean square, factored mean square.

    momentum                 m <- d m + (1 - d) g
    mean square (RMSProp)    r <- d r + (1 - d) g^2
    factored (Adafactor)     q = g^2 + 1e-30
        tensors of >= 2 axes     row <- d row + (1 - d) mean(q, axis=d0);  col <- d col + (1 - d) mean(q, axis=d1)
        all other tensors        diag <- d diag + (1 - d) q

No bias correction. d0 and d1 are the longest and the second longest axis (`factored_axes`). Sources: Metz et al.
2022 (arXiv:2203.11860) and Shazeer & Stern 2018 (arXiv:1804.04235), with the constants of the published code.

Every decay has accumulators of its own, in a tuple, rather than a trailing axis: each array keeps the layout and
the sharding of its parameter, and a fused update reads contiguous memory.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PyTree = Any


class Accumulators(NamedTuple):
    """Statistics of one tensor, or of a tree of tensors (then every entry of every tuple is such a tree).

    A tensor uses either `row` and `col` or `diag`; the others have shape (0,).
    """

    m: tuple[PyTree, ...]
    """Momentum, one per decay, shape of the parameter."""
    r: tuple[PyTree, ...]
    """Mean square, one per decay, shape of the parameter."""
    row: tuple[PyTree, ...]
    """Factored mean square, one per decay, shape of the parameter without axis d0."""
    col: tuple[PyTree, ...]
    """Factored mean square, one per decay, shape of the parameter without axis d1."""
    diag: tuple[PyTree, ...]
    """Mean square of tensors that are not factored, one per decay, shape of the parameter."""


def factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Axes (d1, d0) of the second longest and the longest dimension; None for tensors of fewer than two axes.

    Ties are broken by `numpy.argsort`, as in the published code: for a square matrix (d1, d0) = (0, 1).
    """
    if len(shape) < 2:
        return None
    order = np.argsort(shape)
    return int(order[-2]), int(order[-1])


def init(params: PyTree, *, m: int, r: int, factored: int, dtype: Any = jnp.float32) -> Accumulators:
    """Zero accumulators for a tree of parameters: `m`, `r` and `factored` count the decays of each kind.

    Arrays are derived from the parameters, so that they keep a parameter's sharding.
    """

    def zeros(p: Array) -> Array:
        return jnp.zeros_like(p, dtype=dtype)

    def row(p: Array) -> Array:
        axes = factored_axes(p.shape)
        return jnp.zeros((0,), dtype) if axes is None else jnp.sum(jnp.zeros_like(p, dtype=dtype), axis=axes[1])

    def col(p: Array) -> Array:
        axes = factored_axes(p.shape)
        return jnp.zeros((0,), dtype) if axes is None else jnp.sum(jnp.zeros_like(p, dtype=dtype), axis=axes[0])

    def diag(p: Array) -> Array:
        return zeros(p) if factored_axes(p.shape) is None else jnp.zeros((0,), dtype)

    def trees(leaf: Any, count: int) -> tuple[PyTree, ...]:
        return tuple(jax.tree.map(leaf, params) for _ in range(count))

    return Accumulators(
        trees(zeros, m), trees(zeros, r), trees(row, factored), trees(col, factored), trees(diag, factored)
    )


def update(
    acc: Accumulators,
    g: Float[Array, "..."],
    m_decays: Float[Array, " M"],
    r_decays: Float[Array, " R"],
    factored_decays: Float[Array, " V"],
) -> Accumulators:
    """Accumulators of one tensor after the gradient `g`. Decays of squares are clipped to [0, 1], others are not."""
    r_decays = jnp.clip(r_decays, 0.0, 1.0)
    factored_decays = jnp.clip(factored_decays, 0.0, 1.0)
    q = g * g + 1e-30
    axes = factored_axes(g.shape)
    if axes is None:
        row, col, diag = acc.row, acc.col, _moving_averages(acc.diag, q, factored_decays)
    else:
        d1, d0 = axes
        row = _moving_averages(acc.row, jnp.mean(q, axis=d0), factored_decays)
        col = _moving_averages(acc.col, jnp.mean(q, axis=d1), factored_decays)
        diag = acc.diag
    return Accumulators(
        m=_moving_averages(acc.m, g, m_decays),
        r=_moving_averages(acc.r, g * g, r_decays),
        row=row,
        col=col,
        diag=diag,
    )


def factors(
    row: Float[Array, "V ..."], col: Float[Array, "V ..."], shape: tuple[int, ...]
) -> tuple[Float[Array, "V ..."], Float[Array, "V ..."]]:
    """Row and column factors of one tensor, whose product approximates 1/RMS of the gradient.

    Args:
      row: row statistics of V decays, shape [V, *shape with 1 along d0].
      col: column statistics of V decays, shape [V, *shape with 1 along d1].
      shape: shape of the tensor, of two or more axes.

    Raises:
      ValueError: `shape` has fewer than two axes.
    """
    axes = factored_axes(shape)
    if axes is None:
        raise ValueError(f"a tensor of shape {shape} is not factored: two or more axes were expected")
    d1, _ = axes
    row = row / (jnp.mean(row, axis=1 + d1, keepdims=True) + 1e-9)
    return jax.lax.rsqrt(jnp.maximum(row, 1e-9)), jax.lax.rsqrt(jnp.maximum(col, 1e-9))


def _moving_averages(old: tuple[Array, ...], new: Array, decays: Float[Array, " D"]) -> tuple[Array, ...]:
    return tuple((d * o + (1.0 - d) * new).astype(o.dtype) for o, d in zip(old, decays, strict=True))
