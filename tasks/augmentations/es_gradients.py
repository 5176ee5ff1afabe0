"""Gradients estimated by antithetic evolution strategies: with n pairs of fresh perturbations ε_i ~ N(0, I),

    g' = 1 / (2 n σ) sum_i [L(w + σ ε_i) - L(w - σ ε_i)] ε_i,

unbiased for the gradient of E[L(w + σ ε)]. All 2 n losses are of the same batch, state and key.

Source: Metz et al. 2022 (arXiv:2211.09760), appendix on task augmentation; Salimans et al. 2017 (arXiv:1703.03864).
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.augmentations.base import Augmentation, flatten, with_gradient
from tasks.task import Batch, Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ESGradients(Augmentation):
    """The loss of a task with a gradient estimated by perturbation, all 2 n losses at once.

    Attributes:
      task: whose gradient is estimated.
      pairs: n.
      sigma: σ, in the units of the weights.
    """

    task: Task
    pairs: int = field(default=4, metadata={"static": True})
    sigma: float = field(default=0.01, metadata={"static": True})

    @property
    def name(self) -> str:
        """`<task>__es_<n>_<σ>`."""
        return f"{self.task.name}__es_{self.pairs}_{self.sigma:.4g}"

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """That of the task at `params`; its gradient is g'."""
        key_task, key_noise = jax.random.split(key)
        return with_gradient(_gradient, self, params, state, batch, key_task, key_noise)


def _gradient(augmented: ESGradients, params: Any, state: Any, batch: Batch, key: Any, more: Any) -> tuple[Any, Any]:
    n, σ = augmented.pairs, augmented.sigma
    w, restore = flatten(params)
    L = lambda w: augmented.task.loss(restore(w), state, batch, key)[0]
    ε = jax.random.normal(more, (n, w.size))
    L_plus, L_minus = jnp.split(jax.vmap(L)(w[None] + σ * jnp.concatenate([ε, -ε])), 2)
    return augmented.task.loss(params, state, batch, key), restore((L_plus - L_minus) @ ε / (2 * n * σ))
