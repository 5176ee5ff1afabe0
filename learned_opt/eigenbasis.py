"""The eigenbasis of a matrix's gradients, in which they are divided by their root mean square.

Vyas et al. 2024, "SOAP: improving and stabilizing Shampoo using Adam" (arXiv:2409.11321). Adam divides every entry of
a gradient by its size; where entries move together, as along a valley that crosses them, that says little. In the basis
in which the rows (columns) of the gradients are uncorrelated it tells the walls of the valley from its floor.

For the gradient G of a matrix with n rows and k columns, b = .99, and a basis of each side, the columns of Q:

    L <- b L + (1 - b) G G^T / k,    R <- b R + (1 - b) G^T G / n
    S = Q^T A Q      of A = L / tr L and Q_L, of A = R / tr R and Q_R
    K_ij = S_ij (S_jj - S_ii) / ((S_jj - S_ii)^2 + S_ii S_jj + 1e-10)          antisymmetric
    Q <- 3/2 Q' - 1/2 Q' Q'^T Q',    Q' = Q (I + K / max(1, 2 |K|))         |K|: a bound of its largest singular value
    V <- b V + (1 - b) (Q_L^T G Q_R)^2
    x -> Q_L ((Q_L^T x Q_R) / sqrt(V' + 1e-8 mean(V'))) Q_R^T                  V' = V / (1 - b^(t+1))

SOAP seeks Q by a step of the power iteration and a QR decomposition every 10 updates. Here it turns a little at every
update, to first order towards the eigenvectors where they are far apart and not where they cannot be told, and one step
of Newton and Schulz keeps it orthonormal: matrix products alone, as cheap for a batch of optimizers as for one.

A side has a basis where it is no longer than the other and has at most `LONGEST` entries; elsewhere its Q is the
identity. So a long embedding has a basis of its short side, and the cost is of the order of that of the iteration of
`celo2.py`: 18 n^3 operations where that has 15 for a square matrix, half as many for others. If neither side has one
nothing is kept.

Fails: where two s are equal to the last bit Q does not turn between their vectors, whatever S_ij is. Gradients of +-1
can be so; rounding is enough to leave it.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from learned_opt.network import EXACT

PyTree = Any

DECAY = 0.99
LONGEST = 256
FLOOR = 1e-8
RIDGE = 1e-10
"""Below it squares of S are rounding."""
TURN = 0.5
"""The most by which Q turns in one update, in radians."""
TINY = 1e-24


class Eigenbasis(NamedTuple):
    """Statistics of one tensor, or trees of them; arrays that a tensor has no use for have shape (1,)."""

    gram: tuple[PyTree, PyTree]
    """L, shape [n, n], and R, [k, k]."""
    basis: tuple[PyTree, PyTree]
    """Q_L and Q_R, the eigenvectors in columns."""
    v: PyTree
    """V, in the shape of the tensor."""


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Shape of the matrix that a tensor is read as, all axes but the last together; None for a single row or column."""
    rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
    return (rows, columns) if min(rows, columns) > 1 else None


def sides(shape: tuple[int, ...]) -> tuple[bool, bool]:
    """Whether the rows, and the columns, of a tensor read as a matrix have a basis of their own."""
    matrix = as_matrix(shape)
    if matrix is None:
        return False, False
    n, k = matrix
    return n <= min(LONGEST, k), k <= min(LONGEST, n)


def init(params: PyTree) -> Eigenbasis:
    """Before the first gradient: trees like `params`."""

    def square(side: int, make: Any) -> PyTree:
        def one(p: Any) -> Array:
            shape = jnp.shape(p)
            return make((as_matrix(shape) or ())[side]) if sides(shape)[side] else nothing()

        return jax.tree.map(one, params)

    nothing = lambda: jnp.zeros((1,), jnp.float32)  # a buffer of its own each, so that states can be donated
    zeros, eye = (lambda n: jnp.zeros((n, n), jnp.float32)), (lambda n: jnp.eye(n, dtype=jnp.float32))
    v = lambda p: jnp.zeros_like(p, jnp.float32) if any(sides(jnp.shape(p))) else nothing()
    return Eigenbasis((square(0, zeros), square(1, zeros)), (square(0, eye), square(1, eye)), jax.tree.map(v, params))


def update(state: Eigenbasis, g: Float[Array, "*shape"]) -> Eigenbasis:
    """The statistics of one tensor after one more gradient.

    Args:
      state: of this tensor, at least one of whose sides has a basis.
      g: its gradient, finite.
    """
    own = left, right = sides(g.shape)
    shape, g = g.shape, g.reshape(as_matrix(g.shape))
    average = lambda gram, x: DECAY * gram + (1.0 - DECAY) * _product(x, x.T) / x.shape[1]
    (L, R), (Q_L, Q_R) = state.gram, state.basis
    if left:
        L = average(L, g)
        Q_L = _turned(L, Q_L)
    if right:
        R = average(R, g.T)
        Q_R = _turned(R, Q_R)
    basis = (Q_L, Q_R)
    v = DECAY * state.v + (1.0 - DECAY) * _rotated(basis, own, g).reshape(shape) ** 2
    return Eigenbasis((L, R), basis, v)


def precondition(state: Eigenbasis, x: Float[Array, "*shape"], t: Array) -> Float[Array, "*shape"]:
    """x divided by the root mean square of the gradients, in their basis.

    Args:
      state: of this tensor, with this update's gradient.
      x: a gradient or an average of gradients.
      t: updates made before this one.
    """
    own, shape, matrix = sides(x.shape), x.shape, as_matrix(x.shape)
    v = state.v.reshape(matrix) / -jnp.expm1((t + 1.0) * np.float32(math.log(DECAY)))
    z = _rotated(state.basis, own, x.reshape(matrix)) * jax.lax.rsqrt(v + (FLOOR * jnp.mean(v) + TINY))
    left, right = state.basis
    z = _product(left, z) if own[0] else z
    return (_product(z, right.T) if own[1] else z).reshape(shape)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=EXACT)


def _rotated(basis: tuple[Array, Array], own: tuple[bool, bool], x: Array) -> Array:
    left, right = basis
    x = _product(left.T, x) if own[0] else x
    return _product(x, right) if own[1] else x


def _turned(gram: Array, basis: Array) -> Array:
    """Q after this update."""
    # Where all is zero the derivatives of what follows are finite in float32; those of a quotient would not be.
    unit = jax.lax.rsqrt(jnp.trace(gram) + TINY)
    S = _product(basis.T, _product(unit * gram * unit, basis))
    s = jnp.diag(S)
    gap = s[None, :] - s[:, None]
    K = S * gap / (gap * gap + s[:, None] * s[None, :] + RIDGE)
    size = jnp.minimum(jnp.max(jnp.sum(jnp.abs(K), axis=0)), jnp.sqrt(0.5 * jnp.sum(K * K) + TINY))
    Q = basis + _product(basis, K / jnp.maximum(1.0, size / TURN))
    return 1.5 * Q - 0.5 * _product(Q, _product(Q.T, Q))
