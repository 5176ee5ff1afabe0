"""Lookahead (Zhang et al. 2019, arXiv:1907.08610) with the slow parameters in the state.

`optax.lookahead` wants a pair of fast and slow parameters where everything else has parameters. Here the fast ones
are the parameters that are trained, and `slow_params` are those to evaluate.

    theta_{t+1} = theta_t + u_t;  every k steps:  phi <- phi + alpha (theta - phi),  theta <- phi
"""

from typing import Any, NamedTuple

import optax

PyTree = Any


class State(NamedTuple):
    """State of `lookahead`."""

    inner: Any
    """`optax.LookaheadState`."""
    slow: PyTree
    """phi, as the parameters."""


def lookahead(fast: optax.GradientTransformation, *, k: int = 5, alpha: float = 0.5) -> optax.GradientTransformation:
    """`fast` with slow parameters that follow it; k and alpha of the paper."""
    optimizer = optax.lookahead(fast, sync_period=k, slow_step_size=alpha)

    def init(params: PyTree) -> State:
        pair: Any = optax.LookaheadParams.init_synced(params)
        return State(optimizer.init(pair), params)

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, State]:
        pair: Any = optax.LookaheadParams(fast=params, slow=state.slow)
        moved: Any
        moved, inner = optimizer.update(updates, state.inner, pair)
        return moved.fast, State(inner, optax.apply_updates(state.slow, moved.slow))

    return optax.GradientTransformation(init, update)


def slow_params(state: State, params: PyTree) -> PyTree:
    """phi, the parameters to evaluate."""
    del params
    return state.slow
