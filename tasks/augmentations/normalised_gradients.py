"""Gradients of norm one:

    g' = g / ||g||,    over the whole tree; 0 where g = 0.

Source: Metz et al. 2022 (arXiv:2211.09760), appendix on task augmentation; its code divides by zero at g = 0.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.augmentations.base import Augmentation, flatten, with_gradient
from tasks.task import Batch, Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class NormalisedGradients(Augmentation):
    """The loss of a task with gradients of norm one.

    Attributes:
      task: whose gradients are normalised.
    """

    task: Task

    @property
    def name(self) -> str:
        """`<task>__normalised`."""
        return f"{self.task.name}__normalised"

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """That of the task; its gradient is g'."""
        return with_gradient(_gradient, self, params, state, batch, key, None)


def _gradient(
    augmented: NormalisedGradients, params: Any, state: Any, batch: Batch, key: Any, more: None
) -> tuple[Any, Any]:
    del more
    value, g = jax.value_and_grad(augmented.task.loss, has_aux=True)(params, state, batch, key)
    g, restore = flatten(g)
    # Divided by the largest entry first: squares leave the range of float32 long before g does.
    largest = jnp.abs(g).max()
    h = g / jnp.where(largest > 0, largest, 1)
    return value, restore(h / jnp.where(largest > 0, jnp.linalg.norm(h), 1))
