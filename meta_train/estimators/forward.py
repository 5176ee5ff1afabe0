"""Forward mode: the derivative of the loss along a random direction, carried with the state.

For a direction u ~ N(0, I) and the tangent c of the state,

    c' = (ds'/ds) c + (ds'/dtheta) u,    dl_k = (dl_k/ds) c + (dl_k/dtheta) u,    g = mean xi_k dl_k

with u redrawn every K steps and xi the sum of the episode's draws, as in `evolution`, of which it is the limit for
sigma -> 0: K = infinity is forward gradient and DODGE (Silver et al. 2022, Learning by directional gradient descent;
Baydin et al. 2022, arXiv:2202.08587). Exact in expectation, without any smoothing: chaotic dynamics make it as useless
as backpropagation. tr Var = (P + 1) |grad|^2 for one direction, K = infinity.

State: one problem state and one tangent of it per direction; memory does not depend on the window. Only floating-point
leaves of the state have tangents.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from learned_opt.errors import InputError
from meta_train.estimators.unroll import Seen, accumulator, finite_or_zero
from meta_train.noise import LowRank, Noise
from meta_train.problem import Problem, bounded_loss

PyTree = Any


@dataclass(frozen=True)
class Tangent:
    """A state at theta itself and its tangent along eps = sigma u; a probe of `unroll`."""

    noise: Noise

    def __post_init__(self) -> None:
        """Check the noise.

        Raises:
          InputError: low-rank noise, which a derivative cannot go along without its matrix in full.
        """
        if isinstance(self.noise, LowRank):
            raise InputError("low-rank noise: forward mode needs its directions in full, expected dense noise")

    @property
    def states(self) -> int:
        """See `Probe`."""
        return 1

    @property
    def rejoins(self) -> bool:
        """See `Probe`."""
        return False

    def begin(self, problem: Problem, theta: PyTree, draw: PyTree, key: Key[Array, ""]) -> PyTree:
        """See `Probe`: (state, tangents of its floating-point leaves)."""
        layout = _layout(jax.eval_shape(problem.reset, theta, key))

        def reset(theta: PyTree) -> tuple[list[Array], list[Array]]:
            return _split(problem.reset(theta, key))

        floats, tangents, others = jax.jvp(reset, (theta,), (self._direction(theta, draw),), has_aux=True)
        return _join(layout, floats, others), tangents

    def redraw(self, particle: PyTree) -> PyTree:
        """See `Probe`."""
        return particle

    def step(
        self, problem: Problem, theta: PyTree, draw: PyTree, particle: PyTree, key: Key[Array, ""]
    ) -> tuple[PyTree, Seen]:
        """See `Probe`; the difference is 2 dl, as that of an antithetic pair is to first order."""
        state, tangents = particle
        layout, (floats, others) = _layout(state), _split(state)

        def step(theta: PyTree, floats: list[Array]) -> tuple[tuple[list[Array], Array], tuple[list[Array], Array]]:
            state, loss = problem.step(theta, _join(layout, floats, others), key)
            loss = loss.astype(accumulator(theta))
            floats, rest = _split(state)
            return (floats, bounded_loss(problem, loss)), (rest, loss)

        primals, directions = (theta, floats), (self._direction(theta, draw), tangents)
        (floats, _), (tangents, slope), (others, loss) = jax.jvp(step, primals, directions, has_aux=True)
        return (_join(layout, floats, others), tangents), Seen(loss[None], finite_or_zero(2.0 * slope))

    def _direction(self, theta: PyTree, draw: PyTree) -> PyTree:
        return self.noise.perturb(jax.tree.map(jnp.zeros_like, theta), draw, jnp.ones((), accumulator(theta)))


def _layout(tree: PyTree) -> tuple[Any, tuple[bool, ...]]:
    """Structure, and which leaves are floating-point."""
    return jax.tree.structure(tree), tuple(_is_float(x) for x in jax.tree.leaves(tree))


def _split(tree: PyTree) -> tuple[list[Array], list[Array]]:
    """Floating-point leaves, and the others."""
    leaves = jax.tree.leaves(tree)
    return [x for x in leaves if _is_float(x)], [x for x in leaves if not _is_float(x)]


def _join(layout: tuple[Any, tuple[bool, ...]], floats: list[Array], others: list[Array]) -> PyTree:
    """The way back from `_split`."""
    tree, kinds = layout
    first, second = iter(floats), iter(others)
    return jax.tree.unflatten(tree, [next(first) if kind else next(second) for kind in kinds])


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
