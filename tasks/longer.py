"""The same task for more steps: what an optimizer does beyond the horizons that it was trained for."""

from dataclasses import dataclass, field
from typing import Any

import jax
from jaxtyping import Array, Float, Key

from tasks.task import Batch, Task, Variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Longer:
    """A task that evaluations train `times` as long as the others.

    Attributes:
      task: what is trained.
      times: multiple of the evaluation's number of steps.
    """

    task: Task
    times: int = field(metadata={"static": True})

    @property
    def name(self) -> str:
        """`<task>_x<times>`."""
        return f"{self.task.name}_x{self.times}"

    @property
    def loss_cap(self) -> float:
        """See `Task`."""
        return self.task.loss_cap

    def init(self, key: Key[Array, ""]) -> Variables:
        """See `Task`."""
        return self.task.init(key)

    def batch(self, key: Key[Array, ""]) -> Batch:
        """See `Task`."""
        return self.task.batch(key)

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """See `Task`."""
        return self.task.loss(params, state, batch, key)

    def evaluate(self, params: Any, state: Any, split: str) -> Float[Array, ""]:
        """See `Task`."""
        return self.task.evaluate(params, state, split)


def steps_of(task: Task, steps: int) -> int:
    """Steps to train `task` where others are trained for `steps`."""
    return steps * (task.times if isinstance(task, Longer) else 1)
