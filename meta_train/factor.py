"""What multiplies the steps of a learned optimizer while its weights are sought: a rate times a schedule.

A rule that is to be used with a learning-rate schedule is meta-trained with one: of every episode the rate is drawn,
and the rule finds the directions that serve all of them.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from learned_opt.errors import InputError


@dataclass(frozen=True)
class Factor:
    """eta (1 + cos(pi t / T)) / 2 or eta alone, with eta = exp(U(ln low, ln high)) once an episode."""

    low: float = 1.0
    high: float = 1.0
    cosine: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise InputError(f"factor low={self.low}, high={self.high}: expected 0 < low <= high, both finite")

    @property
    def one(self) -> bool:
        """Whether it changes nothing."""
        return self == Factor()

    def rate(self, key: Key[Array, ""]) -> Float[Array, ""]:
        """eta of the episode that belongs to a key."""
        return jnp.exp(jax.random.uniform(key, minval=math.log(self.low), maxval=math.log(self.high)))

    def __call__(self, rate: Float[Array, ""], t: Int[Array, ""], num_steps: Int[Array, ""]) -> Float[Array, ""]:
        """The factor of update t."""
        if not self.cosine:
            return rate
        return rate * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(t / num_steps, 1.0)))
