"""The trials of a tuned optimizer: the first n of them are its budget n.

    budget 1    the middle rate of its grid, constant, its own weight decay
    budget 7    seven rates in half-decade steps, constant, its own weight decay
    budget 42   7 rates x 3 schedules x 2 weight decays

Budgets nest, so one run of 42 trials holds the results of 7 and of 1. Between the named budgets any prefix is
valid: rates vary fastest, from the middle outwards, then the schedule, then the weight decay.

A schedule is a factor on the rate, of t of T updates made; W = T // 20:

    constant        1
    warmup_cosine   t / W, then (1 + cos(pi (t - W) / (T - W))) / 2
    linear          1 - t / T
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

BUDGETS = (1, 7, 42)
"""The named numbers of trials."""
RATES = 7
"""Rates of a grid."""
SCHEDULES = ("constant", "warmup_cosine", "linear")
"""Names of the schedules, in the order of their index."""

Scalar = float | Float[Array, ""]
"""A setting of a trial, possibly traced."""
Schedule = Callable[[Any], Any]
"""Updates made -> learning rate."""


def rate_grid(centre: float, n: int) -> tuple[float, ...]:
    """`n` learning rates in half-decade steps, from the centre outwards: 0.01, 0.03, 0.003, 0.1, ….

    Args:
      centre: 1 or 3 times a power of ten.
      n: at least 1.
    """
    middle = round(2 * math.log10(centre))
    halves = [middle + (-(i // 2) if i % 2 == 0 else i // 2 + 1) for i in range(n)]
    return tuple(float(f"{3 if half % 2 else 1}e{half // 2}") for half in halves)


def trials(centre: float, decays: tuple[float, float], n: int) -> tuple[dict[str, float], ...]:
    """The first `n` of the 42 trials around the rate `centre`, with the two weight decays."""
    grid = [
        {"learning_rate": rate, "schedule": schedule, "weight_decay": decay}
        for decay in decays
        for schedule in range(len(SCHEDULES))
        for rate in rate_grid(centre, RATES)
    ]
    return tuple(grid[:n])


def scheduled(learning_rate: Scalar, schedule: int | Int[Array, ""], steps: int) -> Schedule:
    """The learning rate as a function of the updates made; rate and index of the schedule may be traced."""
    warmup = steps // 20
    factors = (
        optax.constant_schedule(1.0),
        optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, steps),
        optax.linear_schedule(1.0, 0.0, steps),
    )

    def rate(count: Any) -> Array:
        return learning_rate * jnp.stack([jnp.float32(factor(count)) for factor in factors])[schedule]

    return rate
