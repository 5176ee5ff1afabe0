"""What goes from window to window, and which noise a step is credited to: sums of draws, telescoped losses."""

from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from meta_train.estimators.clock import Tick

PyTree = Any


class Carry(Enum):
    """What a pair takes along from one noise block to the next."""

    PARTICLES = "particles"
    """Its two perturbed states and the credit xi of all noise that shaped them."""
    MEAN = "mean"
    """The state reached under the unperturbed theta, unrolled as a third particle."""
    NONE = "none"
    """Nothing: every window begins with a new episode and idles after its end."""


class Draws(Enum):
    """How the noise of the running block comes back in the next window."""

    REGENERATED = "regenerated"
    """From its key: a pair keeps a counter."""
    STORED = "stored"
    """From the state, P numbers per pair: for a noise that changes between estimates."""


class Objective(Enum):
    """What of an episode is differentiated."""

    MEAN = "mean"
    """The mean loss over counted steps."""
    FINAL = "final"
    """The loss of the last step."""


def telescoped(
    ticks: Tick, value: Float[Array, "W N"], last: Float[Array, " N"], fresh: Bool[Array, "W N"]
) -> Float[Array, "W N"]:
    """T (l_k - l_(k-1)), without l_(k-1) at fresh steps: what follows one sums to T times the loss of the last step.

    Args:
      ticks: fields [W, N].
      value: l, or a difference of losses.
      last: l of the step before the window.
      fresh: steps that the sum begins with: of an episode, or of a noise block that forgets what came before.
    """
    before = jnp.where(fresh, 0.0, jnp.concatenate([last[None], value[:-1]]))
    return ticks.horizon.astype(value.dtype) * (value - before)


def sums_of_draws(xi: PyTree, eps: PyTree, ticks: Tick) -> PyTree:
    """The sum of the draws that the episode of every pair and slot has seen.

    Args:
      xi: the sums before the window, leading axis [N].
      eps: draws, leading axes [N, slots]; slot 0 was running before and is in `xi` already.
      ticks: fields [W, N].

    Returns:
      like `eps`.
    """
    slots = jax.tree.leaves(eps)[0].shape[1]
    starts = ticks.begins[..., None] & (ticks.slot[..., None] == jnp.arange(slots)[None, None])
    continues = ~jnp.any(starts, axis=0)  # [N, slots]: the slot's episode had earlier noise

    def accumulate(xi: Array, eps: Array) -> Array:
        sums = [xi]
        for j in range(1, slots):
            keep = jnp.reshape(continues[:, j], (-1, *(1,) * (xi.ndim - 1)))
            sums.append(jnp.where(keep, sums[-1], 0.0) + eps[:, j])
        return jnp.stack(sums, axis=1)

    return jax.tree.map(accumulate, xi, eps)
