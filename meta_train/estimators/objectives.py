"""Objectives that are properties of the problem: a validation loss, or how far the logarithm of the loss has come."""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from meta_train.problem import InnerState, PyTree, TaskProblem
from tasks.task import Task


@dataclass(frozen=True)
class Around:
    """Training with a learned optimizer, whose steps are judged by something else than their training loss."""

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


@partial(jax.tree_util.register_dataclass, data_fields=["problem"], meta_fields=[])
@dataclass(frozen=True)
class Validated(Around):
    """Training with a learned optimizer; the loss of a step is the validation loss *after* its update.

    It costs an evaluation, of up to 2,048 examples, at every step.
    """

    def step(self, theta: PyTree, state: InnerState, key: Key[Array, ""]) -> tuple[InnerState, Float[Array, ""]]:
        """One minibatch, one update, one evaluation."""
        state, _ = self.problem.step(theta, state, key)
        return state, self.task.evaluate(state.params, state.model_state, "valid")


FLOOR = 1e-2
"""Share of the cap below which a loss counts as reached: there the logarithm would only show how training wanders."""
LOST = 10.0
"""A loss counts as at most so many caps."""


@partial(jax.tree_util.register_dataclass, data_fields=["problem"], meta_fields=[])
@dataclass(frozen=True)
class Relative(Around):
    """Training with a learned optimizer; what counts is the logarithm of the loss, and the end more than the start.

    With the training loss l_t before update t, the task's cap C (so that tasks are alike in scale) and the horizon T:

        (0.2 + 3.2 (t / T)^3) log(min(l_t, 10 C) / C + 0.01)

    The weights have mean one, and half of them belong to the last fifth of the episode. A loss that is negative, as no
    loss of this package is, counts as zero.
    """

    @property
    def loss_cap(self) -> float:
        """See `Problem`: never reached, since every step is bounded; so no loss is counted as lost or clipped."""
        return 4.0 * math.log(LOST + 1.0)

    def step(self, theta: PyTree, state: InnerState, key: Key[Array, ""]) -> tuple[InnerState, Float[Array, ""]]:
        """One minibatch, one update."""
        x = state.t / jnp.maximum(state.num_steps, 1)
        state, loss = self.problem.step(theta, state, key)
        cap = np.float32(self.task.loss_cap)
        share = jnp.where(jnp.isfinite(loss), jnp.clip(loss / cap, 0.0, LOST), LOST)
        return state, (0.2 + 3.2 * x**3) * jnp.log(share + FLOOR)
