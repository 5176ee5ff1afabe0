"""The two interfaces of this package: a task to be optimized, and a family that tasks are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key

Params = Mapping[str, Any]
"""A nested dictionary of floating-point arrays, the D weights of the trained model."""

State = Mapping[str, Any]
"""A nested dictionary of arrays that training changes without gradients (batch-norm averages); {} if none."""

Batch = Any
"""A pytree of arrays with leading axis B; only the task that drew it looks inside."""


class Variables(NamedTuple):
    """What `Task.init` returns."""

    params: Params
    state: State


@runtime_checkable
class Task(Protocol):
    """A model, a loss and data: everything an optimizer is run on.

    A task is a pytree: a frozen dataclass registered with `jax.tree_util.register_dataclass` whose data
    arrays are leaves and whose other fields are static and hashable. It is passed into jit as an argument, so
    that its arrays are never baked into a program as constants and a second call compiles nothing.

    Every method is a pure function that may be called inside jit, vmap, scan and grad; all randomness comes
    from the key. Equal keys give equal results: an antithetic pair shares its batches by sharing a key.
    """

    @property
    def name(self) -> str:
        """A name in snake case that tells this task from the others of its suite; static."""
        ...

    @property
    def loss_cap(self) -> float:
        """The level at which meta-training clips this task's losses, in the units of the loss; static."""
        ...

    def init(self, key: Key[Array, ""]) -> Variables:
        """Initial weights and state; the initial scale is drawn from the key too."""
        ...

    def batch(self, key: Key[Array, ""]) -> Batch:
        """One training minibatch: B examples drawn with replacement from the training split."""
        ...

    def loss(self, params: Params, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], State]:
        """The mean loss of a minibatch in training mode, a float32 scalar, and the state after it.

        The key feeds what a model draws while it trains (dropout, noise). It is not the key of the batch.
        """
        ...

    def evaluate(self, params: Params, state: State, split: str) -> Float[Array, ""]:
        """The mean loss in evaluation mode, a float32 scalar, of the first 2,048 examples of a split.

        Deterministic. `split` is static: "train" or "valid".
        """
        ...


@runtime_checkable
class TaskFamily(Protocol):
    """A distribution over tasks."""

    @property
    def name(self) -> str:
        """The prefix of its tasks' names."""
        ...

    def sample(self, key: Key[Array, ""]) -> Task:
        """Draw a task, on the host: its shapes are static (width, depth, activation, batch size).

        Equal keys give equal tasks. What needs no new shape, such as the initial scale, stays a range that
        `Task.init` draws from, so that one compiled program covers it.
        """
        ...


@dataclass(frozen=True, eq=False)
class OneTask:
    """The distribution of a single task."""

    name: str
    task: Task

    def sample(self, key: Key[Array, ""]) -> Task:
        """The task, whatever the key."""
        del key
        return self.task
