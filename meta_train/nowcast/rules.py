"""How much of a jump to make, from the trajectory alone: for `nowcast(..., accept=...)`.

The loss right after a jump says nothing of its worth: the networks whose jumps help most raise it most. What can be
told beforehand is whether the trajectory has a direction at all, and whether the jump keeps to it.

    path          share = min(1, k mean_t |x_{t+1} - x_t| / |y - x_c|) if (y - x_c) . (x_c - x_1) > 0, else 0
    predictable   share = max(0, 1 - |x_c - f|^2 / |x_c - x_{c-1}|^2), f a line through x_1 … x_{c-1}, at c

The first: a jump of k spacings goes no farther than k spacings of training have gone, and not backwards. The
second: a fit to the earlier states is asked for the last one; where it does no better than to stay, as on noise
about a resting point, there is nothing to extrapolate. Lengths are over all parameters, each tensor in units of its
deviation, so that no tensor counts for its size.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from learned_opt.nowcast import LineFit
from learned_opt.nowcast.base import EPSILON, scales

PyTree = Any


def path(history: tuple[PyTree, ...], prediction: PyTree, k: Int[Array, ""]) -> Float[Array, ""]:
    """The share that leaves a jump no longer than the path; arguments as those of `learned_opt.nowcast.nowcast`."""
    units = scales(history)
    steps = [_length(units, a, b) for a, b in itertools.pairwise(history)]
    mean = sum(steps) / len(steps)
    forward = _product(units, prediction, history[-1], history[-1], history[0]) > 0.0
    share = k * mean / jnp.maximum(_length(units, prediction, history[-1]), EPSILON)
    return jnp.where(forward, jnp.minimum(share, 1.0), 0.0)


def predictable(history: tuple[PyTree, ...], prediction: PyTree, k: Int[Array, ""]) -> Float[Array, ""]:
    """The share by which a line through the earlier states explains the last step of the trajectory."""
    del prediction, k
    units = scales(history)
    line = LineFit(states=len(history) - 1).predict((), history[:-1], jnp.asarray(1), None)
    missed, moved = _length(units, line, history[-1]), _length(units, history[-1], history[-2])
    return jnp.maximum(1.0 - (missed / jnp.maximum(moved, EPSILON)) ** 2, 0.0)


RULES = {"path": path, "predictable": predictable}
"""By the name in an evaluation."""


def _length(units: PyTree, a: PyTree, b: PyTree) -> Float[Array, ""]:
    return jnp.sqrt(_product(units, a, b, a, b))


def _product(units: PyTree, a: PyTree, b: PyTree, c: PyTree, d: PyTree) -> Float[Array, ""]:
    """(a - b) . (c - d), tensors in units of their deviation."""

    def tensor(x: Array, y: Array, z: Array, w: Array, unit: Array) -> Array:
        difference = (x - y).astype(jnp.float32) * (z - w).astype(jnp.float32)
        return unit[2] * jnp.sum(difference) / (unit[1] + EPSILON) ** 2

    return jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(tensor, a, b, c, d, units))))
