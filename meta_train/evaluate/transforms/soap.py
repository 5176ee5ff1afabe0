"""SOAP (Vyas et al. 2024, arXiv:2409.11321, algorithms 3 and 4): Adam in the eigenbasis of Shampoo.

For a tensor G_t with axes k = 1 … r, with G_(k) its matrix of axis k against the others:

    G'_t   = G_t x_1 Q_1^T … x_r Q_r^T
    M_t    = b1 M_{t-1} + (1 - b1) G_t
    V_t    = b2 V_{t-1} + (1 - b2) G'_t^2
    N'_t   = (M_t x_k Q_k^T) / (1 - b1^t) / (sqrt(V_t / (1 - b2^t)) + eps)
    N_t    = N'_t x_k Q_k                                               the direction
    L_k    = b2 L_k + (1 - b2) G_(k) G_(k)^T
    Q_k    = orthogonal factor of L_k Q_k, every `every` steps

As in the published code, the first gradient only fills L_k and gives the first Q_k, and moves nothing: in its own
eigenbasis a gradient is diagonal, and Adam would normalise rounding errors. Scalars, vectors and axes longer than
`longest` have Q_k = 1, which is Adam. Two things differ. The first Q_k are not eigenvectors of L_k but `FIRST`
iterations of the last equation from Q_k = 1, as LAPACK's decompositions, in a loop that is vmapped over runs, can
wait for each other forever on two CPU cores (jax 0.10.2); for the same reason the orthogonal factors are made of
reflections written out. And the columns of Q_k are not sorted by eigenvalue but left in the order of the iteration.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

PyTree = Any

FIRST = 10
"""Power iterations to the first basis."""


class SoapState(NamedTuple):
    """State of `scale_by_soap`."""

    t: Int[Array, ""]
    """Gradients seen; t is one less."""
    m: PyTree
    """M, as the parameters."""
    v: PyTree
    """V, as the parameters, in the eigenbasis."""
    factors: PyTree
    """Of each parameter, a tuple of (n, n) matrices L_k, None for an axis without one."""
    bases: PyTree
    """Of each parameter, a tuple of (n, n) matrices Q_k likewise."""


def scale_by_soap(
    b1: float = 0.95, b2: float = 0.95, eps: float = 1e-8, every: int = 10, longest: int = 1024
) -> optax.GradientTransformation:
    """The direction N_t; decays and frequency of the published code, which takes axes of up to 10,000."""

    def square(p: Array) -> tuple[Array | None, ...]:
        """Zeros for each L_k."""
        return tuple(jnp.zeros((n, n), p.dtype) if p.ndim > 1 and 1 < n <= longest else None for n in p.shape)

    def init(params: PyTree) -> SoapState:
        zeros = optax.tree.zeros_like
        squares = lambda: [square(p) for p in jax.tree.leaves(params)]
        return SoapState(jnp.zeros((), jnp.int32), zeros(params), zeros(params), squares(), squares())

    def one(
        t: Array, g: Array, m: Array, v: Array, factors: tuple[Array | None, ...], bases: tuple[Array | None, ...]
    ) -> tuple[Array, ...]:
        """Direction and state of one tensor."""
        g_rotated = rotate(g, bases)
        m = b1 * m + (1.0 - b1) * g
        v = b2 * v + (1.0 - b2) * g_rotated**2
        n = rotate(m, bases) / (1.0 - b1**t) / (jnp.sqrt(v / (1.0 - b2**t)) + eps)
        return rotate(n, tuple(None if q is None else q.T for q in bases)), m, v

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, SoapState]:
        del params
        g = updates
        leaves, tree = jax.tree.flatten(g)
        first = state.t == 0
        t = jnp.maximum(state.t, 1).astype(jnp.float32)
        unchanged = lambda new, old: jax.tree.map(lambda a, b: jnp.where(first, b, a).astype(b.dtype), new, old)
        directions, moments, squares = [], [], []
        states = zip(leaves, tree.flatten_up_to(state.m), tree.flatten_up_to(state.v), strict=True)
        for i, (x, m, v) in enumerate(states):
            n, m_new, v_new = one(t, x, m, v, state.factors[i], state.bases[i])
            directions.append(unchanged(n, jnp.zeros_like(x)))
            moments.append(unchanged(m_new, m))
            squares.append(unchanged(v_new, v))
        factors = [
            tuple(None if l is None else b2 * l + (1.0 - b2) * gram(x, k) for k, l in enumerate(f))
            for x, f in zip(leaves, state.factors, strict=True)
        ]
        step = jnp.where(first, 0, jnp.where(state.t % every == 0, 1, 2))
        iterate = lambda bases: jax.tree.map(lambda l, q: orthogonal_factor(l @ q), factors, bases)
        unit = jax.tree.map(lambda l: jnp.eye(len(l), dtype=l.dtype), factors)
        first_bases = lambda: jax.lax.fori_loop(0, FIRST, lambda _, bases: iterate(bases), unit)
        bases = jax.lax.switch(step, (first_bases, lambda: iterate(state.bases), lambda: state.bases))
        state = SoapState(state.t + 1, tree.unflatten(moments), tree.unflatten(squares), factors, bases)
        return tree.unflatten(directions), state

    return optax.GradientTransformation(init, update)


def rotate(x: Array, bases: tuple[Array | None, ...]) -> Array:
    """x with each axis k in the basis of the columns of Q_k."""
    for k, q in enumerate(bases):
        if q is not None:
            x = jnp.moveaxis(jnp.tensordot(x, q, axes=(k, 0)), -1, k)
    return x


def gram(x: Array, k: int) -> Array:
    """G_(k) G_(k)^T."""
    others = [i for i in range(x.ndim) if i != k]
    return jnp.tensordot(x, x, axes=(others, others))


def orthogonal_factor(x: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Q of the decomposition x = Q R, by Householder's reflections; columns may have either sign."""
    n = len(x)
    rows = jnp.arange(n)

    def reflect(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        q, r = carry
        column = jnp.where(rows >= k, r[:, k], 0.0)
        norm = jnp.sqrt(jnp.sum(column**2))
        v = column + jnp.where(rows == k, jnp.where(r[k, k] < 0, -norm, norm), 0.0)
        v = v / jnp.maximum(jnp.sqrt(jnp.sum(v**2)), jnp.finfo(x.dtype).tiny)  # no reflection of nothing
        return q - 2.0 * jnp.outer(q @ v, v), r - 2.0 * jnp.outer(v, v @ r)

    scaled = x / jnp.maximum(jnp.max(jnp.abs(x)), jnp.finfo(x.dtype).tiny)  # squares of small entries would vanish
    return jax.lax.fori_loop(0, n, reflect, (jnp.eye(n, dtype=x.dtype), scaled))[0]
