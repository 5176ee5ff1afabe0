"""Small batches: the first examples of each batch,

    B' = max(1, floor(fraction B)).

Source: Metz et al. 2022 (arXiv:2211.09760), appendix on task augmentation.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
from jaxtyping import Array, Float, Key

from tasks.augmentations.base import Augmentation
from tasks.task import Batch, Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ReducedBatch(Augmentation):
    """Batches of a fraction of the size.

    Attributes:
      task: what trains on them.
      fraction: in (0, 1].
    """

    task: Task
    fraction: float = field(default=0.25, metadata={"static": True})

    @property
    def name(self) -> str:
        """`<task>__batch_<fraction>`."""
        return f"{self.task.name}__batch_{self.fraction:.4g}"

    def batch(self, key: Key[Array, ""]) -> Batch:
        """The first B' examples of the task's batch."""
        return jax.tree.map(lambda x: x[: max(1, int(self.fraction * x.shape[0]))], self.task.batch(key))

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """That of the task."""
        return self.task.loss(params, state, batch, key)
