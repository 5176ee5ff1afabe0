"""The inputs of learned optimizers, one function a feature.

A rule lists its features as a table of `Feature` rows. Each row describes its channels in blocks, from the
`TensorStatistics` of one tensor: a `Block` is the arrays it needs and the function that makes the channels of them.
Nothing is computed until the network asks, so a fused network (`learned_opt.fused`) may compute a channel once for
its mean square and once more for the first layer, and never store it.

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


class Block(NamedTuple):
    """Some channels of one tensor: `value(*arrays)`, elementwise after broadcasting."""

    arrays: tuple[Array, ...]
    """Each of shape [channels or 1, *shape that broadcasts to the tensor's]."""
    value: Callable[..., Array]
    """The channels, [channels, *shape that broadcasts to the tensor's]."""


TIME_SCALES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
"""Steps; the scales T of the time features."""

FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
"""Fractions of a training run around which `fraction_left` resolves time."""


class TensorStatistics(NamedTuple):
    """What is known of one tensor at one step, after its accumulators took in the gradient.

    Every array has a leading axis, of length 1 for those of the size of the tensor. Accumulators may be bfloat16, the
    rest is float32.
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
    factors: tuple[tuple[Array, ...], ...]
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
    """Statistics of one tensor from its updated accumulators."""
    axes = accumulators.factored_axes(p.shape)
    none = jnp.zeros((0,) + (1,) * p.ndim, jnp.float32)
    row = col = acc.diag if jax.tree.leaves(acc.diag) else none
    factors = tuple((row[i : i + 1],) for i in range(row.shape[0]))
    if axes is not None and row.shape[0]:
        d1, d0 = axes
        row, col = jnp.expand_dims(acc.row, 1 + d0), jnp.expand_dims(acc.col, 1 + d1)
        row_factor, col_factor = accumulators.factors(row, col, p.shape)
        factors = tuple((row_factor[i : i + 1], col_factor[i : i + 1]) for i in range(row.shape[0]))
    lead = lambda x: x[None]
    m, r = tuple(map(lead, acc.m)), tuple(map(lead, acc.r))
    g, p = lead(g.astype(jnp.float32)), lead(p.astype(jnp.float32))
    return TensorStatistics(g, p, m, r, row, col, factors, axes is not None)


def block(value: Callable[..., Array], *arrays: Array) -> Block:
    """A block; every array reaches `value` in float32."""
    return Block(arrays, lambda *xs: value(*(x.astype(jnp.float32) for x in xs)))


def product(*arrays: Array) -> Array:
    """Product of arrays that broadcast."""
    value = arrays[0]
    for array in arrays[1:]:
        value = value * array
    return value


def gradient(s: TensorStatistics) -> tuple[Block, ...]:
    """The gradient g."""
    return (block(product, s.g),)


def clipped_gradient(limit: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """The gradient clipped to +-limit."""
    return lambda s: (block(lambda g: jnp.clip(g, -limit, limit), s.g),)


def parameter(s: TensorStatistics) -> tuple[Block, ...]:
    """The parameter p before the update."""
    return (block(product, s.p),)


def log_parameter(s: TensorStatistics) -> tuple[Block, ...]:
    """ln(|p| + 1e-8)."""
    return (block(lambda p: jnp.log(jnp.abs(p) + 1e-8), s.p),)


def momentum(s: TensorStatistics) -> tuple[Block, ...]:
    """The momenta m."""
    return tuple(block(product, m) for m in s.m)


def mean_square(s: TensorStatistics) -> tuple[Block, ...]:
    """The mean squares r."""
    return tuple(block(product, r) for r in s.r)


def _inverse_rms(s: TensorStatistics, eps: float) -> list[tuple[tuple[Array, ...], Callable[..., Array]]]:
    """Per decay, 1 / sqrt(r + eps) as arrays and the function of them.

    Where r is the only one, several channels have this factor: an array of it is cheaper than a root in each.
    """
    if len(s.r) == 1:
        return [((jax.lax.rsqrt(s.r[0].astype(jnp.float32) + eps),), lambda inverse: inverse)]
    return [((r,), lambda r: jax.lax.rsqrt(r + eps)) for r in s.r]


def _over_rms(s: TensorStatistics, xs: tuple[Array, ...], eps: float) -> tuple[Block, ...]:
    inverse = _inverse_rms(s, eps)
    pairs = zip(xs, inverse * len(xs) if len(inverse) == 1 else inverse, strict=True)
    return tuple(block(lambda x, *a, f=f: x * f(*a), x, *arrays) for x, (arrays, f) in pairs)


def rsqrt_mean_square(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """1 / sqrt(r + eps)."""
    return lambda s: tuple(block(f, *arrays) for arrays, f in _inverse_rms(s, eps))


def gradient_over_rms(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """g / sqrt(r + eps) for every mean square."""
    return lambda s: _over_rms(s, (s.g,) * len(s.r), eps)


def momentum_over_rms(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """m / sqrt(r + eps) for every momentum: with the mean square of the same decay, or the only one there is."""
    return lambda s: _over_rms(s, s.m, eps)


def factored_gradient(s: TensorStatistics) -> tuple[Block, ...]:
    """The gradient divided by its factored RMS, per decay."""
    if s.factored:
        return tuple(block(product, s.g, *factors) for factors in s.factors)
    over_rms = lambda g, diag: g * jax.lax.rsqrt(jnp.maximum(diag + 1e-9, 1e-9))
    return tuple(block(over_rms, s.g, diag) for (diag,) in s.factors)


def factored_momentum(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """The momentum divided by the factored RMS of the same decay; `eps` only enters where nothing is factored."""

    def compute(s: TensorStatistics) -> tuple[Block, ...]:
        pairs = zip(s.m, s.factors, strict=True)
        if s.factored:
            return tuple(block(product, m, *factors) for m, factors in pairs)
        return tuple(block(product, m, jax.lax.rsqrt(diag + eps)) for m, (diag,) in pairs)

    return compute


def rows(s: TensorStatistics) -> tuple[Block, ...]:
    """The row statistics, tiled along d0."""
    return (block(product, s.row),)


def cols(s: TensorStatistics) -> tuple[Block, ...]:
    """The column statistics, tiled along d1."""
    return (block(product, s.col),)


def rsqrt_rows(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """1 / sqrt(row + eps)."""
    return lambda s: (block(lambda row: jax.lax.rsqrt(row + eps), s.row),)


def rsqrt_cols(eps: float) -> Callable[[TensorStatistics], tuple[Block, ...]]:
    """1 / sqrt(col + eps)."""
    return lambda s: (block(lambda col: jax.lax.rsqrt(col + eps), s.col),)


def time(t: Int[Array, ""]) -> Float[Array, " T"]:
    """tanh(t / T - 1) for every scale T, with t the number of updates before this one; not normalised."""
    return jnp.tanh(t.astype(jnp.float32) / np.array(TIME_SCALES, np.float32) - 1.0)


def fraction_left(t: Int[Array, ""], num_steps: Int[Array, ""] | int | None) -> Float[Array, " 9"]:
    """tanh(10 (t / num_steps - tau)) for every tau of `FRACTIONS`, t the number of updates before this one.

    Beyond `num_steps` all of them saturate at 1. A `num_steps` below 1 counts as 1.
    """
    fraction = t.astype(jnp.float32) / jnp.maximum(jnp.asarray(num_steps, jnp.float32), 1.0)
    return jnp.tanh(10.0 * (fraction - np.array(FRACTIONS, np.float32)))


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


def per_parameter(eps: float) -> tuple[Feature, ...]:
    """The 30 channels of VeLO, Celo and Celo2, which differ in `eps`, under the root of the mean square.

    The first `VECTOR` features do not need factored statistics.
    """
    return (
        Feature("gradient", 1, gradient),
        Feature("clipped gradient", 1, clipped_gradient(0.1)),
        Feature("parameter", 1, parameter),
        Feature("momentum", 3, momentum),
        Feature("mean square", 1, mean_square),
        Feature("momentum / rms", 3, momentum_over_rms(eps)),
        Feature("1 / rms", 1, rsqrt_mean_square(eps)),
        Feature("factored gradient", 3, factored_gradient),
        Feature("gradient / rms", 1, gradient_over_rms(eps)),
        Feature("row", 3, rows),
        Feature("column", 3, cols),
        Feature("1 / sqrt row", 3, rsqrt_rows(1e-8)),
        Feature("1 / sqrt column", 3, rsqrt_cols(1e-8)),
        Feature("factored momentum", 3, factored_momentum(0.0)),
    )


VECTOR = 9
"""Features of `per_parameter` that vectors have in Celo2."""


def channels(block: Block) -> int:
    """Number of channels of a block."""
    return max(array.shape[0] for array in block.arrays)


def width(table: tuple[Feature, ...]) -> int:
    """Number of channels of a table."""
    return sum(feature.channels for feature in table)
