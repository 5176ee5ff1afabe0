"""What an estimate tells about itself."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from meta_train.estimators.clock import Tick
from meta_train.estimators.unroll import Seen
from meta_train.problem import Problem, bounded_loss

PyTree = Any


def losses(problem: Problem, ticks: Tick, seen: Seen) -> dict[str, Array]:
    """Of the counted steps of a window: fields [W, N], losses [W, N, S].

    Returns:
      `meta_loss` (mean bounded loss), `delta_abs_mean` and `delta_abs_max` (difference within a pair, one step; absent
      for S = 1), `lost_fraction` (losses not finite), `clipped_fraction` (losses above the cap), `episodes_begun`.
    """
    loss = seen.loss
    signs = loss.shape[-1]
    mask = ticks.counted[..., None]
    counted = jnp.maximum(jnp.sum(ticks.counted), 1)
    bounded = jnp.where(mask, bounded_loss(problem, loss), 0.0)
    metrics = {"meta_loss": jnp.sum(bounded) / (signs * counted)}
    if signs == 2:
        delta = jnp.abs(bounded[..., 0] - bounded[..., 1])
        metrics |= {"delta_abs_mean": jnp.sum(delta) / counted, "delta_abs_max": jnp.max(delta)}
    return metrics | {
        "lost_fraction": jnp.sum(mask & ~jnp.isfinite(loss)) / (signs * counted),
        "clipped_fraction": jnp.sum(mask & jnp.isfinite(loss) & (loss > problem.loss_cap)) / (signs * counted),
        "episodes_begun": jnp.sum(ticks.begins),
    }


def signal_to_noise(gradient: PyTree, squares: Float[Array, " N"]) -> dict[str, Array]:
    """|g|^2 / (tr Var(g_n) / N) for g = mean of the pairs' gradients g_n; about 1 where there is no signal at all.

    Args:
      gradient: g.
      squares: |g_n|^2.

    Returns:
      `signal_to_noise`; nothing for a single pair.
    """
    n = squares.shape[0]
    if n == 1:
        return {}
    norm = jnp.sum(jnp.stack([jnp.sum(jnp.square(x)) for x in jax.tree.leaves(gradient)]))
    variance_of_mean = (jnp.mean(squares) - norm) / (n - 1)
    return {"signal_to_noise": norm / jnp.maximum(variance_of_mean, jnp.finfo(norm.dtype).tiny)}


def cosine(a: PyTree, b: PyTree) -> Array:
    """Of the angle between two gradients; zero if one of them is zero."""
    norms = optax.tree.norm(a) * optax.tree.norm(b)
    return jnp.where(norms > 0, optax.tree.vdot(a, b) / jnp.where(norms > 0, norms, 1.0), 0.0)
