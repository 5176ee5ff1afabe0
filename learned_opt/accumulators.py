"""Running statistics of the gradient that learned optimizers read: momentum, mean square, factored mean square.

    momentum                 m <- d m + (1 - d) g
    mean square (RMSProp)    r <- d r + (1 - d) g^2
    factored (Adafactor)     q = g^2 + 1e-30
        tensors of >= 2 axes     row <- d row + (1 - d) mean(q, axis=d0);  col <- d col + (1 - d) mean(q, axis=d1)
        all other tensors        diag <- d diag + (1 - d) q

No bias correction. d0 and d1 are the longest and the second longest axis (`factored_axes`). Sources: Metz et al.
2022 (arXiv:2203.11860) and Shazeer & Stern 2018 (arXiv:1804.04235), with the constants of the published code.

Every decay of m and r has an array of its own, in a tuple, rather than a trailing axis: each keeps the layout and the
sharding of its parameter, and a fused update reads contiguous memory. The factored statistics are small: those of all
decays share an array, along its leading axis, and so the operations on them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from learned_opt.errors import InputError

PyTree = Any


class Accumulators(NamedTuple):
    """Statistics of one tensor, or of a tree of tensors (then every array stands for such a tree).

    A tensor uses either `row` and `col` or `diag`; the others have shape (decays, 1), since checkpoints refuse empty
    arrays. Without factored statistics all three are ().
    """

    m: tuple[PyTree, ...]
    """Momentum, one per decay, shape of the parameter."""
    r: tuple[PyTree, ...]
    """Mean square, one per decay, shape of the parameter."""
    row: PyTree
    """Factored mean squares, shape [decays, *shape of the parameter without axis d0]."""
    col: PyTree
    """Factored mean squares, shape [decays, *shape of the parameter without axis d1]."""
    diag: PyTree
    """Mean squares of tensors that are not factored, shape [decays, *shape of the parameter]."""
    t: PyTree
    """Updates so far, an int32 scalar, for the rounding of bfloat16; () where m and r are float32."""


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

    Arrays are derived from the parameters, so that they keep a parameter's sharding. `dtype` is that of m and r; the
    factored statistics are small and stay float32.

    Raises:
      InputError: `dtype` is neither float32 nor bfloat16: float16 has too small a range for squares of gradients.
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise InputError(f"accumulator_dtype is {dtype}: expected jnp.float32 or jnp.bfloat16")

    zeros = lambda p: jnp.zeros_like(p, dtype=dtype)
    stacked = lambda x: jnp.broadcast_to(x, (factored, *x.shape))

    def factor(p: Any, which: int) -> Array:
        axes = factored_axes(jnp.shape(p))
        if axes is None:
            return jnp.zeros((factored, 1), jnp.float32)
        return stacked(jnp.sum(jnp.zeros_like(p, dtype=jnp.float32), axis=axes[which]))

    def diag(p: Any) -> Array:
        if factored_axes(jnp.shape(p)) is None:
            return stacked(jnp.zeros_like(p, dtype=jnp.float32))
        return jnp.zeros((factored, 1), jnp.float32)

    return Accumulators(
        m=tuple(jax.tree.map(zeros, params) for _ in range(m)),
        r=tuple(jax.tree.map(zeros, params) for _ in range(r)),
        row=jax.tree.map(lambda p: factor(p, 1), params) if factored else (),
        col=jax.tree.map(lambda p: factor(p, 0), params) if factored else (),
        diag=jax.tree.map(diag, params) if factored else (),
        t=jax.tree.map(lambda _: jnp.zeros((), jnp.int32), params) if dtype == jnp.bfloat16 else (),
    )


def update(
    acc: Accumulators,
    g: Float[Array, "..."],
    m_decays: Float[Array, " M"],
    r_decays: Float[Array, " R"],
    factored_decays: Float[Array, " V"],
) -> Accumulators:
    """Accumulators of one tensor after the gradient `g`. Decays of squares are clipped to [0, 1], others are not.

    Accumulators in bfloat16 are rounded stochastically: rounding to the nearest would stop an average of decay 0.999
    as soon as a step of it is below half a unit of its last place (1/512 of its value).
    """
    r_decays = jnp.clip(r_decays, 0.0, 1.0)
    factored_decays = jnp.clip(factored_decays, 0.0, 1.0)
    axes = factored_axes(g.shape)
    row, col, diag = acc.row, acc.col, acc.diag
    if not factored_decays.size:
        pass
    elif axes is None:
        diag = _moving_average(diag, (g * g + 1e-30)[None], factored_decays)
    else:
        d1, d0 = axes
        # The floor is added to the mean: in front of it, the squares would be stored for both means.
        row = _moving_average(row, jnp.mean(fresh((g, row))[0] ** 2, axis=d0)[None] + 1e-30, factored_decays)
        col = _moving_average(col, jnp.mean(fresh((g, col))[0] ** 2, axis=d1)[None] + 1e-30, factored_decays)
    m = _moving_averages(acc.m, g, m_decays, acc.t, 0)
    r = _moving_averages(acc.r, g * g, r_decays, acc.t, len(m))
    return Accumulators(m, r, row, col, diag, jax.tree.map(lambda t: t + 1, acc.t))


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


class Decays(NamedTuple):
    """Decays of a rule that has them fixed."""

    m: tuple[float, ...] = ()
    r: tuple[float, ...] = ()
    factored: tuple[float, ...] = ()

    def init(self, params: PyTree, dtype: Any) -> Accumulators:
        """Zero accumulators (`init`)."""
        return init(params, m=len(self.m), r=len(self.r), factored=len(self.factored), dtype=dtype)

    def arrays(self) -> tuple[Array, Array, Array]:
        """The decays of m, r and the factored mean squares, float32."""
        return tuple(fresh(jnp.asarray(np.array(decays, np.float32))) for decays in self)

    def update(self, acc: Accumulators, g: Float[Array, "..."]) -> Accumulators:
        """Accumulators of one tensor after a gradient (`update`)."""
        return update(acc, g, *self.arrays())


def fresh(x: PyTree) -> PyTree:
    """The same values, which XLA takes for others: what two passes compute from them is not shared but computed twice.

    Sharing would store an array of the size of the tensor to save a few operations on it.
    """
    return jax.lax.optimization_barrier(x)


def _moving_average(old: Array, new: Array, decays: Float[Array, " D"]) -> Array:
    d = decays.reshape(-1, *(1,) * (old.ndim - 1))
    return d * old + (1.0 - d) * new


def _moving_averages(
    old: tuple[Array, ...], new: Array, decays: Float[Array, " D"], t: Any, stream: int
) -> tuple[Array, ...]:
    averages = [d * o.astype(jnp.float32) + (1.0 - d) * new for o, d in zip(old, decays, strict=True)]
    if not jax.tree.leaves(t):
        return tuple(averages)
    salt = lambda i: (
        jnp.uint32(0x9E3779B9) * (jnp.uint32(64) * t.reshape(()).astype(jnp.uint32) + jnp.uint32(stream + i))
    )
    return tuple(stochastic_round(x, salt(i)) for i, x in enumerate(averages))


def stochastic_round(x: Float[Array, "*shape"], salt: UInt32[Array, ""]) -> Array:
    """float32 to bfloat16, up or down with probabilities that make the expectation the value itself.

    The dither is a hash of the value, its place in the tensor and `salt`, which must differ from update to update:
    an average that moves by less than a unit of its last place would otherwise be rounded back to itself for ever.
    Infinities and NaN pass unchanged.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    place = salt
    for axis in range(x.ndim):
        place = (place + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)) * np.uint32(0x01000193)
    hashed = (bits ^ place) * np.uint32(0x85EBCA6B)
    hashed = (hashed ^ (hashed >> np.uint32(15))) * np.uint32(0xC2B2AE35)
    hashed = hashed ^ (hashed >> np.uint32(13))
    rounded = (bits + (hashed >> np.uint32(16))) & np.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(rounded, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)
