"""The inputs of learned optimizers, one function a feature.

A rule lists its features as a table of `Feature` rows. Each row computes its channels from the `TensorStatistics` of
one tensor, in blocks: a block is a **product of factors** that broadcast against each other and against the tensor,
with a leading axis for its channels. Keeping the factors apart is what lets the fused network (`learned_opt.fused`)
treat row and column statistics as vectors: nothing of the size of the tensor is made for them.

Row and column statistics of all decays form one block; statistics of the size of the tensor one block each, since
stacking those would copy them.

Names follow Metz et al. 2022 (arXiv:2203.11860), appendix "per-parameter features".
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from learned_opt import accumulators
from learned_opt.accumulators import Accumulators

Block = tuple[Array, ...]
"""Factors of some channels, each of shape [channels or 1, *shape that broadcasts to the tensor's]."""

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
"""Steps; the scales T of the tanh time features."""


class TensorStatistics(NamedTuple):
    """What is known of one tensor at one step, after its accumulators took in the gradient; all float32.

    Every array has a leading axis, of length 1 for those of the size of the tensor.
    """

    g: Array
    """Gradient, shape [1, *shape]."""
    p: Array
    """Parameter before the update, shape [1, *shape]."""
    m: tuple[Array, ...]
    """Momenta per decay, shape [1, *shape] each."""
    r: tuple[Array, ...]
    """Mean squares per decay, shape [1, *shape] each."""
    row: Array
    """Factored mean squares [decays, *shape with 1 along d0]; `diag` for tensors that are not factored."""
    col: Array
    """Factored mean squares [decays, *shape with 1 along d1]; `diag` for tensors that are not factored."""
    factors: tuple[Block, ...]
    """Per decay, the row and column factors whose product is 1/RMS (`accumulators.factors`); `(diag,)`, the mean
    square itself, for tensors that are not factored."""
    factored: bool
    """Whether the tensor is factored (two or more axes)."""


class Feature(NamedTuple):
    """One row of a rule's feature table."""

    name: str
    """Name in the paper's list."""
    channels: int
    """How many channels the feature has."""
    compute: Callable[[TensorStatistics], tuple[Block, ...]]
    """The channels of one tensor, in order."""


def statistics(acc: Accumulators, g: Float[Array, "*shape"], p: Float[Array, "*shape"]) -> TensorStatistics:
    """Statistics of one tensor from its updated accumulators; everything in float32."""
    to_f32 = lambda arrays: tuple(x.astype(jnp.float32) for x in arrays)
    acc = Accumulators(*map(to_f32, acc))
    axes = accumulators.factored_axes(p.shape)
    if axes is None:
        row = col = jnp.stack(acc.diag)
        factors = tuple((diag[None],) for diag in acc.diag)
    else:
        d1, d0 = axes
        row = jnp.stack([jnp.expand_dims(x, d0) for x in acc.row])
        col = jnp.stack([jnp.expand_dims(x, d1) for x in acc.col])
        row_factor, col_factor = accumulators.factors(row, col, p.shape)
        factors = tuple((row_factor[i : i + 1], col_factor[i : i + 1]) for i in range(len(acc.row)))
    lead = lambda x: x.astype(jnp.float32)[None]
    m, r = tuple(map(lead, acc.m)), tuple(map(lead, acc.r))
    return TensorStatistics(lead(g), lead(p), m, r, row, col, factors, axes is not None)


def gradient(s: TensorStatistics) -> tuple[Block, ...]:
    """The gradient g."""
    return ((s.g,),)


def parameter(s: TensorStatistics) -> tuple[Block, ...]:
    """The parameter p before the update."""
    return ((s.p,),)


def momentum(s: TensorStatistics) -> tuple[Block, ...]:
    """The momenta m."""
    return tuple((m,) for m in s.m)


def mean_square(s: TensorStatistics) -> tuple[Block, ...]:
    """The mean squares r."""
    return tuple((r,) for r in s.r)


def rsqrt_mean_square(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """1 / sqrt(r + eps)."""
    return lambda s: tuple((jax.lax.rsqrt(r + eps),) for r in s.r)


def momentum_over_rms(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """m / sqrt(r + eps) for every momentum, with the mean square of the last decay."""
    return lambda s: tuple((m * jax.lax.rsqrt(s.r[-1] + eps),) for m in s.m)


def factored_gradient(s: TensorStatistics) -> tuple[Block, ...]:
    """The gradient divided by its factored RMS, per decay."""
    if s.factored:
        return tuple((s.g, *factors) for factors in s.factors)
    return tuple((s.g * jax.lax.rsqrt(jnp.maximum(diag + 1e-9, 1e-9)),) for (diag,) in s.factors)


def factored_momentum(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """The momentum divided by the factored RMS of the same decay; `eps` only enters where nothing is factored."""

    def compute(s: TensorStatistics) -> tuple[Block, ...]:
        pairs = zip(s.m, s.factors, strict=True)
        if s.factored:
            return tuple((m, *factors) for m, factors in pairs)
        return tuple((m * jax.lax.rsqrt(diag + eps),) for m, (diag,) in pairs)

    return compute


def rows(s: TensorStatistics) -> tuple[Block, ...]:
    """The row statistics, tiled along d0."""
    return ((s.row,),)


def cols(s: TensorStatistics) -> tuple[Block, ...]:
    """The column statistics, tiled along d1."""
    return ((s.col,),)


def rsqrt_rows(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """1 / sqrt(row + eps)."""
    return lambda s: ((jax.lax.rsqrt(s.row + eps),),)


def rsqrt_cols(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """1 / sqrt(col + eps)."""
    return lambda s: ((jax.lax.rsqrt(s.col + eps),),)


def time(t: Int[Array, ""]) -> Float[Array, " T"]:
    """tanh(t / T - 1) for every scale T, with t the number of updates before this one; not normalised."""
    return jnp.tanh(t.astype(jnp.float32) / np.array(TIME_SCALES, np.float32) - 1.0)


def collect(table: tuple[Feature, ...], s: TensorStatistics) -> tuple[Block, ...]:
    """All channels of a table in order.

    Raises:
      ValueError: a feature gave another number of channels than its row of the table says.
    """
    blocks: list[Block] = []
    for feature in table:
        new = feature.compute(s)
        found = sum(channels(block) for block in new)
        if found != feature.channels:
            raise ValueError(f"feature {feature.name!r} has {found} channels, its table says {feature.channels}")
        blocks.extend(new)
    return tuple(blocks)


def channels(block: Block) -> int:
    """Number of channels of a block."""
    return max(factor.shape[0] for factor in block)


def product(block: Block) -> Array:
    """Value of a block [channels, …]: the product of its factors, at the shape they broadcast to."""
    value = block[0]
    for factor in block[1:]:
        value = value * factor
    return value


def width(table: tuple[Feature, ...]) -> int:
    """Number of channels of a table."""
    return sum(feature.channels for feature in table)
