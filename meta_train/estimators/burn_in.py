"""An estimator that starts amid episodes: estimates made, and dropped, before the first one that counts."""

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Key

from meta_train.problem import Problem

PyTree = Any


@dataclass(frozen=True)
class BurnIn:
    """`estimator`, after as many estimates at the initial theta as hold `steps` inner steps of each particle.

    With step-unlocked pairs the first estimates see episodes from their start only: the longest horizon of burn-in
    makes the first estimate a sample like all others (Li et al. 2023).
    """

    estimator: Any
    steps: int
    """Inner steps of every particle, rounded up to whole windows."""
    window: int
    """Inner steps W of one of its estimates."""

    @property
    def inner_steps(self) -> int:
        """Inner steps of one estimate; those before the first are not counted."""
        return self.estimator.inner_steps

    def init(self, problem: Problem, theta: PyTree, key: Key[Array, ""]) -> PyTree:
        """The estimator's state after the burn-in."""

        def one(state: PyTree, _: None) -> tuple[PyTree, None]:
            return self.estimator.estimate(problem, theta, state)[1], None

        state = self.estimator.init(problem, theta, key)
        return jax.lax.scan(one, state, None, length=-(-self.steps // self.window))[0]

    def estimate(self, problem: Problem, theta: PyTree, state: PyTree) -> tuple[PyTree, PyTree, dict[str, Array]]:
        """The estimator's."""
        return self.estimator.estimate(problem, theta, state)
