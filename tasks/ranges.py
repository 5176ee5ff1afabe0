"""Draws from ranges, all log-uniform: sizes and scales matter by their ratio."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def log_uniform(key: Key[Array, ""], low: float, high: float) -> Float[Array, ""]:
    """A number in [low, high], 0 < low <= high; inside jit."""
    return jnp.exp(jax.random.uniform(key, minval=math.log(low), maxval=math.log(high)))


def log_uniform_int(key: Key[Array, ""], low: int, high: int) -> int:
    """An integer n in [low, high], 1 <= low <= high, with odds log(1 + 1 / n); on the host."""
    share = float(jax.random.uniform(key))
    return min(high, math.floor(low * ((high + 1) / low) ** share))


def layer_widths(
    key_depth: Key[Array, ""], key_width: Key[Array, ""], depth: tuple[int, int], width: tuple[int, int]
) -> tuple[int, ...]:
    """The widths of hidden layers: their number, then each width by itself, from `log_uniform_int`; on the host."""
    layers = log_uniform_int(key_depth, *depth)
    return tuple(log_uniform_int(jax.random.fold_in(key_width, i), *width) for i in range(layers))


def power_of_two(key: Key[Array, ""], low: int, high: int) -> int:
    """A power of two in [low, high], both powers of two, each equally likely; on the host."""
    return 2 ** int(jax.random.randint(key, (), low.bit_length() - 1, high.bit_length()))


def choice(key: Key[Array, ""], options: tuple[str, ...]) -> str:
    """One of the options, each equally likely; on the host."""
    return options[int(jax.random.randint(key, (), 0, len(options)))]
