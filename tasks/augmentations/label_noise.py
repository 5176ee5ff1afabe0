"""Wrong labels while training: with a probability p, independently and anew at each step,

    label' ~ Uniform{0, .., C - 1}    (the right one among them),

so that the best loss that can be reached rises above zero. Evaluations see the labels as they are.

Source: symmetric label noise as in Zhang et al. 2017 (arXiv:1611.03530), there drawn once; not part of VeLO's recipe.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.augmentations.base import Augmentation
from tasks.errors import InputError
from tasks.task import Batch, Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LabelNoise(Augmentation):
    """A task some of whose training labels are replaced; InputError unless `applicable`.

    Attributes:
      task: `applicable(task)`.
      fraction: p.
    """

    task: Task
    fraction: float = field(default=0.1, metadata={"static": True})

    @property
    def name(self) -> str:
        """`<task>__label_noise_<p>`."""
        return f"{self.task.name}__label_noise_{self.fraction:.4g}"

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """That of the task on a batch with labels replaced."""
        if not _has_labels(batch):
            raise InputError(f"label noise on task {self.task.name!r}: expected batches with integers called label")
        key_task, key_which, key_label = jax.random.split(key, 3)
        label = batch["label"]
        other = jax.random.randint(key_label, label.shape, 0, classes(self.task), label.dtype)
        wrong = jax.random.bernoulli(key_which, self.fraction, label.shape)
        return self.task.loss(params, state, {**batch, "label": jnp.where(wrong, other, label)}, key_task)


def applicable(task: Task) -> bool:
    """Whether batches of the task have a field "label" of integers."""
    return _has_labels(jax.eval_shape(task.batch, jax.random.key(0)))


def classes(task: Task) -> int:
    """C, from the source of the task below all augmentations; InputError where there is none."""
    below: Any = task
    while isinstance(below, Augmentation):
        below = below.task
    if not hasattr(below, "source"):
        raise InputError(f"label noise on task {task.name!r}: expected a task with a source of examples")
    return below.source.classes


def _has_labels(batch: Batch) -> bool:
    return isinstance(batch, dict) and "label" in batch and jnp.issubdtype(batch["label"].dtype, jnp.integer)
