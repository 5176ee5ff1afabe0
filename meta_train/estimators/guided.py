"""Guided ES: evolution strategies that look where recent truncated gradients point.

Maheswaranathan et al. 2019 (arXiv:1806.10230). The last k gradients of truncated backpropagation at theta itself span
the subspace that `noise.Guided` prefers:

    U = orthonormal basis of the last k surrogate gradients;    g: that of an evolution strategy with noise Guided(U)

The expectation is C grad (see `noise.guided`): a descent direction, the gradient only for alpha = 1. Any member of the
family may be guided; its running draws are stored, since U moves on while an episode keeps its noise.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from learned_opt.errors import InputError
from meta_train.estimators.backprop import Backprop, BackpropState
from meta_train.estimators.credit import Carry, Draws
from meta_train.estimators.diagnostics import cosine
from meta_train.estimators.evolution import Evolution, EvolutionState
from meta_train.noise import Guided, LowRank
from meta_train.noise.base import ravel
from meta_train.problem import Problem

PyTree = Any

START = 2
"""Stream of a run's key beside those of `evolution`: the directions before there are gradients."""


class GuidedState(NamedTuple):
    """Everything that changes from one estimate to the next."""

    evolution: EvolutionState
    surrogate: BackpropState
    history: Array
    """The last surrogate gradients, newest first, of norm one, [k, P]."""


@dataclass(frozen=True)
class GuidedES:
    """The estimator."""

    evolution: Evolution
    """The member of the family that is guided; of its noise, sigma counts."""
    subspace: int = 1
    """Gradients k that span the subspace."""
    alpha: float = 0.5
    """Share of the variance spread over all weights, 0 to 1."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: no subspace, a share that is none, or low-rank noise.
        """
        if self.subspace < 1:
            raise InputError(f"subspace {self.subspace}: expected at least 1 gradient")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha {self.alpha}: expected a number from 0 to 1")
        if isinstance(self.evolution.noise, LowRank):
            raise InputError("low-rank noise: guided ES draws its own noise, expected dense noise")

    @property
    def inner_steps(self) -> int:
        """Inner steps of one estimate, all particles counted."""
        return self.evolution.inner_steps + self._surrogate.inner_steps

    @property
    def window(self) -> int:
        """Inner steps W per estimate."""
        return self.evolution.window

    def init(self, problem: Problem, theta: PyTree, key: Key[Array, ""]) -> GuidedState:
        """State before the first estimate; until there are k gradients, random directions stand in."""
        flat, _ = ravel(theta)
        if self.subspace > flat.size:
            raise InputError(f"subspace {self.subspace}: expected at most the {flat.size} weights of theta")
        history = jax.random.normal(jax.random.fold_in(key, START), (self.subspace, flat.size), flat.dtype)
        return GuidedState(
            self._guided(history).init(problem, theta, key), self._surrogate.init(problem, theta, key), history
        )

    def estimate(
        self, problem: Problem, theta: PyTree, state: GuidedState
    ) -> tuple[PyTree, GuidedState, dict[str, Array]]:
        """One estimate; metrics of the evolution strategy, and `surrogate_cosine`, of its gradient and the newest."""
        surrogate, mean, _ = self._surrogate.estimate(problem, theta, state.surrogate)
        newest, _ = ravel(surrogate)
        norm = jnp.sqrt(jnp.sum(jnp.square(newest)))
        usable = jnp.isfinite(norm) & (norm > 0)
        pushed = jnp.concatenate([newest[None] / jnp.where(usable, norm, 1.0), state.history[:-1]])
        history = jnp.where(usable, pushed, state.history)
        gradient, evolution, metrics = self._guided(history).estimate(problem, theta, state.evolution)
        metrics = metrics | {"surrogate_cosine": cosine(gradient, surrogate)}
        return gradient, GuidedState(evolution, mean, history), metrics

    def _guided(self, history: Float[Array, "k P"]) -> Evolution:
        basis, _ = jnp.linalg.qr(history.T)
        noise = Guided(basis, self.evolution.noise.sigma, self.alpha)
        return replace(self.evolution, noise=noise, draws=Draws.STORED)

    @property
    def _surrogate(self) -> Backprop:
        evolution = self.evolution
        whole = evolution.carry is Carry.NONE
        return Backprop(evolution.pairs, evolution.window, evolution.phases, whole, evolution.objective)
