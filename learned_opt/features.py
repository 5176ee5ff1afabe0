"""The inputs of learned optimizers, one function a feature.

A rule lists its features as a table of `Feature` rows. Each row computes its channels from the `TensorStatistics` of
one tensor; a channel is a **product of factors** that broadcast against each other and against the tensor. Keeping
the factors apart is what lets the fused network (`learned_opt.fused`) treat row and column statistics as vectors:
nothing of the size of the tensor is made for them.

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

Channel = tuple[Array, ...]
"""Factors of one channel: its value is their product."""

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
"""Steps; the scales T of the tanh time features."""


class TensorStatistics(NamedTuple):
    """What is known of one tensor at one step, after its accumulators took in the gradient; all float32."""

    g: Array
    """Gradient, shape of the tensor."""
    p: Array
    """Parameter before the update, shape of the tensor."""
    m: tuple[Array, ...]
    """Momenta, one per decay, shape of the tensor."""
    r: tuple[Array, ...]
    """Mean squares, one per decay, shape of the tensor."""
    row: tuple[Array, ...]
    """Factored mean squares per decay, length 1 along d0; `diag` for tensors that are not factored."""
    col: tuple[Array, ...]
    """Factored mean squares per decay, length 1 along d1; `diag` for tensors that are not factored."""
    factors: tuple[tuple[Array, Array], ...] | None
    """Row and column factor per decay (`accumulators.factors`); None for tensors that are not factored."""


class Feature(NamedTuple):
    """One row of a rule's feature table."""

    name: str
    """Name in the paper's list."""
    channels: int
    """How many channels the feature has."""
    compute: Callable[[TensorStatistics], tuple[Channel, ...]]
    """The channels of one tensor."""


def statistics(acc: Accumulators, g: Float[Array, "*shape"], p: Float[Array, "*shape"]) -> TensorStatistics:
    """Statistics of one tensor from its updated accumulators; everything in float32."""
    to_f32 = lambda arrays: tuple(x.astype(jnp.float32) for x in arrays)
    acc = Accumulators(*map(to_f32, acc))
    axes = accumulators.factored_axes(p.shape)
    if axes is None:
        row = col = acc.diag
        factors = None
    else:
        d1, d0 = axes
        row = tuple(jnp.expand_dims(x, d0) for x in acc.row)
        col = tuple(jnp.expand_dims(x, d1) for x in acc.col)
        factors = tuple(zip(*accumulators.factors(acc, p.shape), strict=True))
    return TensorStatistics(
        g.astype(jnp.float32), p.astype(jnp.float32), m=acc.m, r=acc.r, row=row, col=col, factors=factors
    )


def gradient(s: TensorStatistics) -> tuple[Channel, ...]:
    """The gradient g."""
    return ((s.g,),)


def parameter(s: TensorStatistics) -> tuple[Channel, ...]:
    """The parameter p before the update."""
    return ((s.p,),)


def momentum(s: TensorStatistics) -> tuple[Channel, ...]:
    """The momenta m."""
    return tuple((m,) for m in s.m)


def mean_square(s: TensorStatistics) -> tuple[Channel, ...]:
    """The mean squares r."""
    return tuple((r,) for r in s.r)


def rsqrt_mean_square(eps: float) -> Callable[[TensorStatistics], tuple[Channel, ...]]:
    """1 / sqrt(r + eps)."""
    return lambda s: tuple((jax.lax.rsqrt(r + eps),) for r in s.r)


def momentum_over_rms(eps: float) -> Callable[[TensorStatistics], tuple[Channel, ...]]:
    """m / sqrt(r + eps) for every momentum, with the mean square of the last decay."""
    return lambda s: tuple((m * jax.lax.rsqrt(s.r[-1] + eps),) for m in s.m)


def factored_gradient(s: TensorStatistics) -> tuple[Channel, ...]:
    """The gradient divided by its factored RMS, per decay."""
    if s.factors is None:
        return tuple((s.g * jax.lax.rsqrt(jnp.maximum(diag + 1e-9, 1e-9)),) for diag in s.row)
    return tuple((s.g, row_factor, col_factor) for row_factor, col_factor in s.factors)


def factored_momentum(eps: float) -> Callable[[TensorStatistics], tuple[Channel, ...]]:
    """The momentum divided by the factored RMS of the same decay; `eps` only enters where nothing is factored."""

    def compute(s: TensorStatistics) -> tuple[Channel, ...]:
        if s.factors is None:
            return tuple((m * jax.lax.rsqrt(diag + eps),) for m, diag in zip(s.m, s.row, strict=True))
        return tuple((m, row, col) for m, (row, col) in zip(s.m, s.factors, strict=True))

    return compute


def rows(s: TensorStatistics) -> tuple[Channel, ...]:
    """The row statistics, tiled along d0."""
    return tuple((x,) for x in s.row)


def cols(s: TensorStatistics) -> tuple[Channel, ...]:
    """The column statistics, tiled along d1."""
    return tuple((x,) for x in s.col)


def rsqrt_rows(eps: float) -> Callable[[TensorStatistics], tuple[Channel, ...]]:
    """1 / sqrt(row + eps)."""
    return lambda s: tuple((jax.lax.rsqrt(x + eps),) for x in s.row)


def rsqrt_cols(eps: float) -> Callable[[TensorStatistics], tuple[Channel, ...]]:
    """1 / sqrt(col + eps)."""
    return lambda s: tuple((jax.lax.rsqrt(x + eps),) for x in s.col)


def time(count: Int[Array, ""]) -> Float[Array, " T"]:
    """tanh(t / T - 1) for every scale T, with t the number of updates before this one; not normalised."""
    return jnp.tanh(count.astype(jnp.float32) / np.array(TIME_SCALES, np.float32) - 1.0)


def collect(table: tuple[Feature, ...], s: TensorStatistics) -> tuple[Channel, ...]:
    """All channels of a table in order.

    Raises:
      ValueError: a feature gave another number of channels than its row of the table says.
    """
    channels: list[Channel] = []
    for feature in table:
        new = feature.compute(s)
        if len(new) != feature.channels:
            raise ValueError(f"feature {feature.name!r} has {len(new)} channels, its table says {feature.channels}")
        channels.extend(new)
    return tuple(channels)


def width(table: tuple[Feature, ...]) -> int:
    """Number of channels of a table."""
    return sum(feature.channels for feature in table)
