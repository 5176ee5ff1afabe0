"""Noise of low rank on large matrices, as in EGGROLL.

Sarkar et al. 2025, "Evolution strategies at the hyperscale" (arXiv:2511.16652). A matrix W [m, n] is perturbed by
eps = B A^T with B [m, r] ~ N(0, sigma^2 / r), A [n, r] ~ N(0, 1): each entry has mean 0 and variance sigma^2, entries
are uncorrelated. theta holds the perturbed matrix as `learned_opt.low_rank.PlusLowRank`, which a network multiplies by
as x W + (x B) A^T: a particle needs r (m + n) numbers in the place of m n, and W is read once for all particles.

For a loss that is linear in W, with gradient G, one antithetic pair has

    tr Var = (m n + 1 + (2 m + 2 n + 2) / r) |G|^2

against (m n + 1) |G|^2 for dense noise. Not Gaussian, so smoothing differs from dense noise in the fourth moment:
third derivatives of the loss are weighted otherwise. A sum of n draws, as PES needs, has rank n r. For the small
matrices of per-parameter networks it is slower than dense noise, and up to twice as noisy.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from learned_opt.low_rank import PlusLowRank
from meta_train.noise.base import Scales, Theta, inverse, leaf_scales

EXACT = jax.lax.Precision.HIGHEST


class Factors(NamedTuple):
    """Noise B A^T of one matrix."""

    b: Array
    """[m, r]."""
    a: Array
    """[n, r]."""


class Draw(NamedTuple):
    """Noise of all leaves, before the factors of `scales`."""

    flat: Array
    """Of the leaves with dense noise, in order, one vector."""
    factors: tuple[Factors, ...]
    """Of the matrices with low-rank noise, in order."""


@dataclass(frozen=True)
class LowRank:
    """Rank-r noise on matrices of at least `least` entries, dense noise on everything else."""

    sigma: float = 0.01
    rank: int = 1
    """r."""
    least: int = 65536
    """Entries of the smallest matrix that gets it."""
    scales: Scales = ()
    """See `Dense`."""

    def draw(self, key: Key[Array, ""], pair: Int[Array, ""], block: Int[Array, ""], theta: Theta) -> Draw:
        """See `Noise.draw`."""
        del pair  # its key differs from those of the other pairs
        key = jax.random.fold_in(key, block)
        dense, matrices = self._split(jax.tree.leaves(theta))
        dtype = jnp.result_type(jnp.float32, *dense, *matrices)
        flat = self.sigma * jax.random.normal(jax.random.fold_in(key, 0), (sum(x.size for x in dense),), dtype)
        factors = []
        for i, w in enumerate(matrices):
            m, n = w.shape
            z = jax.random.normal(jax.random.fold_in(key, i + 1), (m + n, self.rank), dtype)
            factors.append(Factors(z[:m] * (self.sigma / np.sqrt(self.rank)), z[m:]))
        return Draw(flat, tuple(factors))

    def perturb(self, theta: Theta, draw: Draw, sign: Float[Array, ""]) -> Theta:
        """See `Noise.perturb`; large matrices come as `PlusLowRank`."""
        factors = iter(draw.factors)

        def one(w: Array, flat: Array | None, s: float) -> Any:
            if flat is not None:
                return (w + sign * (s * flat)).astype(w.dtype)
            b, a = next(factors)
            return PlusLowRank(w, (sign * (s * b)).astype(w.dtype), a.astype(w.dtype))

        return self._rebuild(theta, draw.flat, one)

    def combine(self, theta: Theta, weights: Float[Array, "..."], draws: Draw) -> Theta:
        """See `Noise.combine`."""
        axes = weights.ndim
        factors = iter(draws.factors)
        total = jnp.tensordot(weights, draws.flat, axes=axes, precision=EXACT)

        def one(w: Array, flat: Array | None, s: float) -> Array:
            if flat is not None:
                return (flat * inverse(s)).astype(w.dtype)
            b, a = next(factors)
            columns = lambda x: jnp.moveaxis(x, -2, 0).reshape(x.shape[-2], -1)  # [m, draws * r]
            weighted = weights[..., None, None] * b
            return (jnp.matmul(columns(weighted), columns(a).T, precision=EXACT) * inverse(s)).astype(w.dtype)

        return self._rebuild(theta, total, one)

    def squares(self, theta: Theta, weights: Float[Array, "N slots"], draws: Draw) -> Float[Array, " N"]:
        """See `Noise.squares`: |sum_s w_s B_s A_s^T|^2 = sum over s, u, r, q of w_s w_u (B_s^T B_u * A_s^T A_u)_rq."""
        factors = iter(draws.factors)
        each = jnp.einsum("ns,nsp->np", weights, draws.flat, precision=EXACT)
        total = jnp.zeros(weights.shape[:1], each.dtype)

        def one(w: Array, flat: Array | None, s: float) -> Array:
            if flat is not None:
                return jnp.sum(jnp.square(flat * inverse(s)), axis=tuple(range(1, flat.ndim)))
            b, a = next(factors)
            gram = lambda x: jnp.einsum("nsir,nuiq->nsurq", x, x, precision=EXACT)
            return jnp.einsum("ns,nu,nsurq->n", weights, weights, gram(b) * gram(a)) * inverse(s) ** 2

        return total + sum(jax.tree.leaves(self._rebuild(theta, each, one)))

    def _split(self, leaves: list[Array]) -> tuple[list[Array], list[Array]]:
        return [x for x in leaves if not self._large(x)], [x for x in leaves if self._large(x)]

    def _large(self, x: Array) -> bool:
        return x.ndim == 2 and x.size >= self.least

    def _rebuild(self, theta: Theta, flat: Float[Array, "... Q"], one: Any) -> Any:
        """`one(leaf, its part of the last axis of flat or None, its scale)` of every leaf, as a tree like theta."""
        leaves, tree = jax.tree.flatten(theta)
        made, start = [], 0
        for w, s in zip(leaves, leaf_scales(theta, self.scales), strict=True):
            if self._large(w):
                made.append(one(w, None, s))
            else:
                part = flat[..., start : start + w.size]
                made.append(one(w, part.reshape(*flat.shape[:-1], *w.shape), s))
                start += w.size
        return jax.tree.unflatten(tree, made)
