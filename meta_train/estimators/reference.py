"""An estimator watched by another: the cosine of their gradients, at every outer step, is a metric."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from meta_train.estimators.diagnostics import cosine
from meta_train.noise.base import Scales, leaf_scales
from meta_train.problem import Problem

PyTree = Any

REFERENCE = 3
"""Stream of a run's key that the reference derives from."""


class WatchedState(NamedTuple):
    """Everything that changes from one estimate to the next."""

    estimator: PyTree
    reference: PyTree


@dataclass(frozen=True)
class Watched:
    """Gradients of `estimator`; those of `reference` are only compared with them."""

    estimator: Any
    reference: Any
    scales: Scales = ()
    """Factors on the noise of parts of theta; where one is 0 the part stays as it is and is not compared."""

    @property
    def inner_steps(self) -> int:
        """Inner steps of one estimate of both."""
        return self.estimator.inner_steps + self.reference.inner_steps

    def init(self, problem: Problem, theta: PyTree, key: Key[Array, ""]) -> WatchedState:
        """States before the first estimate; the estimator's is the one that it has by itself."""
        other = jax.random.fold_in(key, REFERENCE)
        return WatchedState(self.estimator.init(problem, theta, key), self.reference.init(problem, theta, other))

    def estimate(
        self, problem: Problem, theta: PyTree, state: WatchedState
    ) -> tuple[PyTree, WatchedState, dict[str, Array]]:
        """As the estimator's, with the metric `reference_cosine`."""
        gradient, mine, metrics = self.estimator.estimate(problem, theta, state.estimator)
        other, its, _ = self.reference.estimate(problem, theta, state.reference)
        factors = jax.tree.unflatten(jax.tree.structure(theta), leaf_scales(theta, self.scales))
        moving = lambda tree: jax.tree.map(lambda factor, x: x if factor else jnp.zeros_like(x), factors, tree)
        compared = cosine(moving(gradient), moving(other))
        return gradient, WatchedState(mine, its), metrics | {"reference_cosine": compared}
