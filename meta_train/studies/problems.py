"""Small problems with known answers, for studies; each is a `meta_train.problem.Problem`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

PyTree = Any

ENDLESS = 10**9
"""A horizon that no study reaches."""


@dataclass(frozen=True, eq=False)
class Unrolled:
    """A problem from two functions, with one constant horizon."""

    begin: Callable[[Any, Any], Any]
    """(theta, key) -> state."""
    advance: Callable[[Any, Any, Any], Any]
    """(theta, state, key) -> (state, loss)."""
    length: int
    """Horizon."""
    loss_cap: float = float("inf")
    """See `Problem`."""

    @property
    def min_horizon(self) -> int:
        """See `Problem`."""
        return self.length

    @property
    def max_horizon(self) -> int:
        """See `Problem`."""
        return self.length

    def horizon(self, key: Key[Array, ""]) -> Int[Array, ""]:
        """See `Problem`."""
        del key
        return jnp.int32(self.length)

    def reset(self, theta: PyTree, key: Key[Array, ""]) -> PyTree:
        """See `Problem`."""
        return self.begin(theta, key)

    def step(self, theta: PyTree, state: PyTree, key: Key[Array, ""]) -> tuple[PyTree, Float[Array, ""]]:
        """See `Problem`."""
        return self.advance(theta, state, key)
