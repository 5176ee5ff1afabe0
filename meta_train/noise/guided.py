"""Noise that prefers a subspace: that of guided ES.

Maheswaranathan, Metz, Tucker, Choi, Sohl-Dickstein 2019, "Guided evolutionary strategies" (arXiv:1806.10230). With an
orthonormal basis U [P, k],

    eps = sigma (sqrt(alpha) z + sqrt((1 - alpha) P / k) U y),   z ~ N(0, I_P), y ~ N(0, I_k)

so that E eps eps^T = sigma^2 C with C = alpha I + (1 - alpha) (P / k) U U^T, of trace P: sigma is the deviation of a
coordinate on average, and alpha = 1 is `Dense`. In the paper's letters: Sigma = C / P, its sigma is sqrt(P) times ours,
its beta P. Estimates have expectation C grad, a descent direction that is not the gradient unless alpha = 1; one
antithetic pair has tr Var = P g^T C g + g^T C^2 g for a linear loss.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from meta_train.noise.base import Theta, ravel
from meta_train.noise.dense import Dense


@dataclass(frozen=True, eq=False)
class Guided:
    """The noise of one estimate; a basis that changes between estimates needs `Draws.STORED`."""

    basis: Array
    """U, [P, k], orthonormal columns."""
    sigma: float = 0.01
    alpha: float = 0.5
    """Share of the variance outside of the subspace's own, 0 to 1."""

    def draw(
        self, key: Key[Array, ""], pair: Int[Array, ""], block: Int[Array, ""], theta: Theta
    ) -> Float[Array, " P"]:
        """See `Noise.draw`."""
        del pair  # its key differs from those of the other pairs
        flat, _ = ravel(theta)
        size, k = self.basis.shape
        draw = jax.random.normal(jax.random.fold_in(key, block), (size + k,), flat.dtype)
        within = jnp.matmul(self.basis.astype(flat.dtype), draw[size:], precision=jax.lax.Precision.HIGHEST)
        share = np.sqrt(self.alpha), np.sqrt((1 - self.alpha) * size / k)
        return self.sigma * (float(share[0]) * draw[:size] + float(share[1]) * within)

    def perturb(self, theta: Theta, draw: Float[Array, " P"], sign: Float[Array, ""]) -> Theta:
        """See `Noise.perturb`."""
        return Dense(self.sigma).perturb(theta, draw, sign)

    def combine(self, theta: Theta, weights: Float[Array, "..."], draws: Float[Array, "... P"]) -> Theta:
        """See `Noise.combine`."""
        return Dense(self.sigma).combine(theta, weights, draws)

    def squares(
        self, theta: Theta, weights: Float[Array, "N slots"], draws: Float[Array, "N slots P"]
    ) -> Float[Array, " N"]:
        """See `Noise.squares`."""
        return Dense(self.sigma).squares(theta, weights, draws)
