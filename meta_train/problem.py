"""An unrolled computation with weights theta: all that a meta-gradient estimator knows.

A problem is a pytree (its data are leaves, so they reach a compiled program as arguments). One *episode* belongs to
one key: `horizon(key)` steps, begun by `reset(theta, key)`. Learned optimizers are one instance (`TaskProblem`);
hyper-parameters, recurrent networks and dynamical systems are others.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from learned_opt.rules.base import Rule
from meta_train.factor import Factor
from meta_train.horizon import LogUniform
from tasks.task import Task

PyTree = Any


@runtime_checkable
class Problem(Protocol):
    """An unrolled computation with weights theta."""

    @property
    def loss_cap(self) -> float:
        """Losses above this, and losses that are not finite, count as this; finite wherever a loss may be lost."""
        ...

    @property
    def min_horizon(self) -> int:
        """No episode is shorter, in inner steps."""
        ...

    @property
    def max_horizon(self) -> int:
        """No episode is longer, in inner steps."""
        ...

    def horizon(self, key: Key[Array, ""]) -> Int[Array, ""]:
        """Inner steps of the episode that belongs to `key`."""
        ...

    def reset(self, theta: PyTree, key: Key[Array, ""]) -> PyTree:
        """State at the start of the episode that belongs to `key`."""
        ...

    def step(self, theta: PyTree, state: PyTree, key: Key[Array, ""]) -> tuple[PyTree, Float[Array, ""]]:
        """One inner step: the next state and the loss of this step. `key` is new for every step."""
        ...


class InnerState(NamedTuple):
    """State of one inner training run."""

    params: PyTree
    """Parameters of the trained model, D weights in all."""
    model_state: PyTree
    """Running statistics of the model, if it has any."""
    opt_state: PyTree
    """State of the learned optimizer."""
    num_steps: Array
    """Horizon T handed to the learned optimizer, int32."""
    t: Array
    """Updates made, int32."""
    rate: Array | tuple[()]
    """eta of `Factor`; () where it changes nothing."""


@partial(jax.tree_util.register_dataclass, data_fields=["task"], meta_fields=["rule", "horizon_range", "factor"])
@dataclass(frozen=True)
class TaskProblem:
    """Training on a task with a learned optimizer; the loss of a step is the training loss *before* its update."""

    task: Task
    rule: Rule = field(metadata={"static": True})
    horizon_range: LogUniform = field(metadata={"static": True})
    factor: Factor = field(default=Factor(), metadata={"static": True})

    @property
    def loss_cap(self) -> float:
        """See `Problem`."""
        return self.task.loss_cap

    @property
    def min_horizon(self) -> int:
        """See `Problem`."""
        return self.horizon_range.low

    @property
    def max_horizon(self) -> int:
        """See `Problem`."""
        return self.horizon_range.high

    def horizon(self, key: Key[Array, ""]) -> Int[Array, ""]:
        """See `Problem`."""
        return self.horizon_range(jax.random.fold_in(key, 0))

    def reset(self, theta: PyTree, key: Key[Array, ""]) -> InnerState:
        """A fresh model and a fresh optimizer."""
        params, model_state = self.task.init(jax.random.fold_in(key, 1))
        num_steps = self.horizon(key)
        opt = self.rule.transform(theta, num_steps=num_steps)
        rate = () if self.factor.one else self.factor.rate(jax.random.fold_in(key, 2))
        return InnerState(params, model_state, opt.init(params), num_steps, jnp.int32(0), rate)

    def step(self, theta: PyTree, state: InnerState, key: Key[Array, ""]) -> tuple[InnerState, Float[Array, ""]]:
        """One minibatch, one update."""
        params, model_state, opt_state, num_steps, t, rate = state
        batch = self.task.batch(jax.random.fold_in(key, 0))
        loss_and_grad = jax.value_and_grad(self.task.loss, has_aux=True)
        (loss, model_state), grads = loss_and_grad(params, model_state, batch, jax.random.fold_in(key, 1))
        opt = self.rule.transform(theta, num_steps=num_steps)
        updates, opt_state = opt.update(grads, opt_state, params, value=loss)
        if not isinstance(rate, tuple):
            updates = optax.tree.scale(self.factor(rate, t, num_steps), updates)
        return InnerState(optax.apply_updates(params, updates), model_state, opt_state, num_steps, t + 1, rate), loss


STEPS = 0x73746570
"""Stream of an episode's key that the keys of its steps come from; a problem has the small numbers to itself."""


def step_key(episode: Key[Array, ""], t: Int[Array, ""]) -> Key[Array, ""]:
    """Key of step t of an episode."""
    return jax.random.fold_in(jax.random.fold_in(episode, STEPS), t)


def bounded_loss(problem: Problem, loss: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The loss as meta-training counts it: at most `loss_cap`, which also stands for a loss that is not finite."""
    return jnp.where(jnp.isfinite(loss), jnp.minimum(loss, problem.loss_cap), problem.loss_cap)


def mean_loss(problem: Problem, theta: PyTree, keys: Key[Array, " n"]) -> Float[Array, " n"]:
    """Mean bounded loss per inner step of the whole episodes that belong to `keys`, at fixed theta."""

    def episode(key: Key[Array, ""]) -> Float[Array, ""]:
        horizon = problem.horizon(key)

        def step(state: PyTree, t: Int[Array, ""]) -> tuple[PyTree, Float[Array, ""]]:
            state, loss = problem.step(theta, state, step_key(key, t))
            return state, jnp.where(t < horizon, bounded_loss(problem, loss), 0.0)

        _, losses = jax.lax.scan(step, problem.reset(theta, key), jnp.arange(problem.max_horizon))
        return jnp.sum(losses) / horizon

    return jax.vmap(episode)(keys)
