"""Objectives that are properties of the problem: a validation loss in the place of the training loss."""

from dataclasses import dataclass
from functools import partial

import jax
from jaxtyping import Array, Float, Int, Key

from meta_train.problem import InnerState, PyTree, TaskProblem
from tasks.task import Task


@partial(jax.tree_util.register_dataclass, data_fields=["problem"], meta_fields=[])
@dataclass(frozen=True)
class Validated:
    """Training with a learned optimizer; the loss of a step is the validation loss *after* its update.

    It costs an evaluation, of up to 2,048 examples, at every step.
    """

    problem: TaskProblem

    @property
    def task(self) -> Task:
        """What is trained on."""
        return self.problem.task

    @property
    def loss_cap(self) -> float:
        """See `Problem`."""
        return self.problem.loss_cap

    @property
    def min_horizon(self) -> int:
        """See `Problem`."""
        return self.problem.min_horizon

    @property
    def max_horizon(self) -> int:
        """See `Problem`."""
        return self.problem.max_horizon

    def horizon(self, key: Key[Array, ""]) -> Int[Array, ""]:
        """See `Problem`."""
        return self.problem.horizon(key)

    def reset(self, theta: PyTree, key: Key[Array, ""]) -> InnerState:
        """See `TaskProblem`."""
        return self.problem.reset(theta, key)

    def step(self, theta: PyTree, state: InnerState, key: Key[Array, ""]) -> tuple[InnerState, Float[Array, ""]]:
        """One minibatch, one update, one evaluation."""
        state, _ = self.problem.step(theta, state, key)
        return state, self.task.evaluate(state.params, state.model_state, "valid")
