"""Perturbations of theta as functions of a key.

A noise draws `eps` for one antithetic pair and one block of inner steps; the same arguments always give the same
draw, so a particle stores a counter and never a copy of theta. What a draw looks like is the noise's own affair; an
estimator only adds draws, perturbs theta with them, and turns a weighted sum of them into a gradient.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key

Theta = Any
Draw = Any


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


@dataclass(frozen=True)
class Dense:
    """Independent Gaussian noise on every weight: eps ~ N(0, sigma^2 I). A draw is one vector of P floats."""

    sigma: float = 0.01

    def draw(
        self, key: Key[Array, ""], pair: Int[Array, ""], block: Int[Array, ""], theta: Theta
    ) -> Float[Array, " P"]:
        """See `Noise.draw`."""
        del pair  # its key differs from those of the other pairs
        flat, _ = ravel_pytree(theta)
        return self.sigma * jax.random.normal(jax.random.fold_in(key, block), flat.shape, flat.dtype)

    def perturb(self, theta: Theta, draw: Float[Array, " P"], sign: Float[Array, ""]) -> Theta:
        """See `Noise.perturb`."""
        flat, unravel = ravel_pytree(theta)
        return unravel(flat + sign * draw)

    def combine(self, theta: Theta, weights: Float[Array, "..."], draws: Float[Array, "... P"]) -> Theta:
        """See `Noise.combine`."""
        _, unravel = ravel_pytree(theta)
        return unravel(jnp.tensordot(weights, draws, axes=weights.ndim, precision=jax.lax.Precision.HIGHEST))
