"""What an estimator knows of its noise, and what noises share."""

import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key

from learned_opt.errors import InputError

Theta = Any
Draw = Any
Scales = tuple[tuple[str, float], ...]
"""Factors on sigma: (part of a leaf's path, factor); the first that matches counts, 1 where none does. 0 freezes a
leaf: it has no noise and no gradient."""


@runtime_checkable
class Noise(Protocol):
    """What an estimator needs to know of its noise."""

    @property
    def sigma(self) -> float:
        """Standard deviation of a coordinate, in units of theta."""
        ...

    def draw(self, key: Key[Array, ""], pair: Int[Array, ""], block: Int[Array, ""], theta: Theta) -> Draw:
        """Noise of pair `pair`, whose key is `key`, in its block `block`, scaled by sigma: a pytree of arrays."""
        ...

    def perturb(self, theta: Theta, draw: Draw, sign: Float[Array, ""]) -> Theta:
        """theta + sign * eps."""
        ...

    def combine(self, theta: Theta, weights: Float[Array, "..."], draws: Draw) -> Theta:
        """Sum over all leading axes of weight times noise, like theta; `draws` has the axes of `weights` in front."""
        ...

    def squares(self, theta: Theta, weights: Float[Array, "N slots"], draws: Draw) -> Float[Array, " N"]:
        """Squared norm of the `combine` of every pair by itself."""
        ...


def leaf_scales(theta: Theta, scales: Scales) -> list[float]:
    """Factor on sigma of every leaf of theta.

    Raises:
      InputError: a part that no leaf's path contains, or a factor that is not a finite number of at least 0.
    """
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(theta)]
    for part, factor in scales:
        if not any(part in path for path in paths):
            raise InputError(f"noise scale {part!r} {factor}: no leaf of theta has it in its path: {', '.join(paths)}")
        if not 0 <= factor < math.inf:
            raise InputError(f"noise scale {part!r} {factor}: expected a finite factor, at least 0")
    return [next((factor for part, factor in scales if part in path), 1.0) for path in paths]


def flat_scales(theta: Theta, scales: Scales) -> Float[Array, " P"]:
    """The factor of every weight, as a vector."""
    return _flat(theta, leaf_scales(theta, scales))


def _flat(theta: Theta, factors: list[float]) -> Float[Array, " P"]:
    full = [jnp.full(x.shape, s, x.dtype) for x, s in zip(jax.tree.leaves(theta), factors, strict=True)]
    return ravel_pytree(jax.tree.unflatten(jax.tree.structure(theta), full))[0]


def inverse(factor: float) -> float:
    """One over a factor; 0 for a leaf that is frozen."""
    return 1.0 / factor if factor else 0.0


def inverse_scales(theta: Theta, scales: Scales) -> Float[Array, " P"]:
    """One over the factor of every weight; 0 where it is frozen."""
    return _flat(theta, [inverse(factor) for factor in leaf_scales(theta, scales)])


def ravel(theta: Theta) -> tuple[Float[Array, " P"], Any]:
    """Theta as a vector of at least float32, and the way back to its dtypes."""
    flat, unravel = ravel_pytree(theta)
    wide = jnp.promote_types(flat.dtype, jnp.float32)
    return flat.astype(wide), lambda x: unravel(x.astype(flat.dtype))
