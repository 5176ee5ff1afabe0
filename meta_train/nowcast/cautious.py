"""Horizons by a network's own uncertainty.

A predictor has no reason to treat a tensor other than its negative, and was not told so. Its prediction for the
mirrored history, mirrored back, is a second opinion at the cost of a second call:

    y_h = (n_h(x) - n_h(-x)) / 2                        u_h = |n_h(x) + n_h(-x)| / (2 |y_h - x_c|)

For every candidate h up to the scheduled horizon; the farthest with u_h at most the tolerance is taken, and no jump
made, y = x_c, where there is none. Lengths are over all parameters, each tensor in units of its deviation.

Cost: two calls with as many outputs as candidates.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from learned_opt.nowcast import Network, Wiring
from learned_opt.nowcast.base import EPSILON, scales
from learned_opt.rules.base import check_settings

PyTree = Any


@dataclass(frozen=True)
class Cautious:
    """A network that jumps only as far as it agrees with its own mirror image."""

    network: Network
    candidates: tuple[int, ...] = (1, 2, 5, 10, 20, 40)
    """Horizons, increasing."""
    tolerance: float = 0.3
    """Largest u."""

    def __post_init__(self) -> None:
        check_settings(self, integers={}, finite=("tolerance",))

    @property
    def states(self) -> int:
        """Past states that it reads."""
        return self.network.states

    @property
    def max_horizon(self) -> int | None:
        """The furthest horizon."""
        return self.network.max_horizon

    def init(self, key: Array) -> Any:
        """Weights of the network within."""
        return self.network.init(key)

    def predict(self, theta: Any, history: tuple[PyTree, ...], k: Int[Array, "*horizons"], graph: Wiring) -> PyTree:
        """The parameters of the farthest trusted horizon up to k, or of each k of an axis."""
        most = self.max_horizon
        candidates = jnp.asarray([h for h in self.candidates if most is None or h <= most])
        mirrored = tuple(jax.tree.map(jnp.negative, tree) for tree in history)
        own = self.network.predict(theta, history, candidates, graph)
        other = self.network.predict(theta, mirrored, candidates, graph)
        last = jax.tree.map(lambda x: x.astype(jnp.float32), history[-1])
        mean = jax.tree.map(lambda a, b: (a - b) / 2.0, own, other)
        odd = jax.tree.map(lambda a, b: (a + b) / 2.0, own, other)
        moved = jax.tree.map(lambda a, b: a - b[None], mean, last)
        units = scales(history)
        u = jnp.sqrt(_squares(odd, units)) / jnp.maximum(jnp.sqrt(_squares(moved, units)), EPSILON)

        def choose(k: Array) -> PyTree:
            trusted = (u <= self.tolerance) & (candidates <= k)
            # Candidates increase, so the last trusted one is the farthest.
            place = jnp.max(jnp.where(trusted, jnp.arange(len(candidates)), -1))
            taken = lambda y, x: jnp.where(place >= 0, y[jnp.maximum(place, 0)], x)
            return jax.tree.map(taken, mean, last)

        return choose(k) if jnp.ndim(k) == 0 else jax.vmap(choose)(k)


def _squares(tree: PyTree, units: PyTree) -> Array:
    """Sums of squares along the axes after the first."""
    square = lambda x, unit: unit[2] * jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=1) / (unit[1] + EPSILON) ** 2
    return jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(square, tree, units))), axis=0)
