"""Independent Gaussian noise on every weight."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from meta_train.noise.base import Scales, Theta, flat_scales, inverse_scales, ravel


@dataclass(frozen=True)
class Dense:
    """eps ~ N(0, sigma^2 S^2), S diagonal with the factors of the leaves. A draw is a vector of P floats, S^-1 eps."""

    sigma: float = 0.01
    scales: Scales = ()
    """Factors on sigma by leaf, (("lstm", 0.5),) say; 1 elsewhere."""

    def draw(
        self, key: Key[Array, ""], pair: Int[Array, ""], block: Int[Array, ""], theta: Theta
    ) -> Float[Array, " P"]:
        """See `Noise.draw`."""
        del pair  # its key differs from those of the other pairs
        flat, _ = ravel(theta)
        return self.sigma * jax.random.normal(jax.random.fold_in(key, block), flat.shape, flat.dtype)

    def perturb(self, theta: Theta, draw: Float[Array, " P"], sign: Float[Array, ""]) -> Theta:
        """See `Noise.perturb`."""
        flat, unravel = ravel(theta)
        return unravel(flat + sign * (draw * flat_scales(theta, self.scales) if self.scales else draw))

    def combine(self, theta: Theta, weights: Float[Array, "..."], draws: Float[Array, "... P"]) -> Theta:
        """See `Noise.combine`: with a scaled leaf, 1/(sigma s)^2 eps = 1/sigma^2 draw / s."""
        _, unravel = ravel(theta)
        total = jnp.tensordot(weights, draws, axes=weights.ndim, precision=jax.lax.Precision.HIGHEST)
        return unravel(total * inverse_scales(theta, self.scales) if self.scales else total)

    def squares(
        self, theta: Theta, weights: Float[Array, "N slots"], draws: Float[Array, "N slots P"]
    ) -> Float[Array, " N"]:
        """See `Noise.squares`."""
        each = jnp.einsum("ns,nsp->np", weights, draws, precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(jnp.square(each * inverse_scales(theta, self.scales)[None] if self.scales else each), axis=1)
