"""How many inner steps an inner problem runs."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from learned_opt.errors import InputError


@dataclass(frozen=True)
class LogUniform:
    """T = floor(exp(U(ln low, ln (high + 1)))) inner steps, low to high inclusive; low = high is constant."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise InputError(f"horizon low={self.low}, high={self.high}: expected 1 <= low <= high")

    def __call__(self, key: Key[Array, ""]) -> Int[Array, ""]:
        """The horizon that belongs to a key."""
        if self.low == self.high:
            return jnp.asarray(self.low, jnp.int32)
        u = jax.random.uniform(key, minval=math.log(self.low), maxval=math.log(self.high + 1))
        return jnp.clip(jnp.exp(u).astype(jnp.int32), self.low, self.high)
