"""Celo-Adam: Adam whose size of step is set by Celo's LSTM.

Moudgil, Knyazev, Lajoie, Belilovsky: "Celo: training versatile learned optimizers on a compute diet", 2025
(arXiv:2501.12670), its ablation with Adam in the place of the per-parameter network.

Each update, for t updates made before and the training loss l:

    X      = [tanh(10 (t/num_steps - tau)) (9), loss features of l (9)]
    s      = scheduler(X)                                                      `learned_opt.scheduler`
    m, r   updated by g, clipped to +-1000; m^ = m / (1 - 0.9^(t+1)),  r^ = r / (1 - 0.999^(t+1))
    p      <- p - 0.001 lambda m^ / (sqrt(r^ + 1e-10) + 1e-8),   lambda = 0.1 exp(s)

Reads the training loss and `num_steps`. Weights: 35,649. State: 2 floats per parameter. Fails: where Adam with the
best constant rate and a schedule does; lambda was meta-trained for parameters of common initial scales.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from learned_opt import accumulators, fused, loss_features, recurrent, scheduler
from learned_opt.accumulators import Accumulators
from learned_opt.loss_features import LossAverages
from learned_opt.network import PerParameterMLP
from learned_opt.recurrent import LSTMState
from learned_opt.rules import base
from learned_opt.rules.celo import INPUTS, scheduler_inputs
from learned_opt.rules.velo import CLIP
from learned_opt.scheduler import Scheduler

PyTree = Any

BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8


class Theta(NamedTuple):
    """Weights of the rule."""

    scheduler: Scheduler


class State(NamedTuple):
    """State of the optimizer."""

    t: Array
    """Updates made so far, int32 scalar."""
    accumulators: Accumulators
    """One m and one r; nothing factored."""
    lstm: LSTMState
    """One row: all tensors have the same inputs."""
    losses: LossAverages


class Shared(NamedTuple):
    """What all tensors share in one update."""

    size: Array
    """0.001 lambda, a scalar."""
    correction_1: Array
    """1 - 0.9^(t+1)."""
    correction_2: Array
    """1 - 0.999^(t+1)."""


@dataclass(frozen=True)
class CeloAdam:
    """The rule with its settings; defaults are the published ones."""

    lstm_units: int = 64
    """Units of the scheduler."""
    step_mult: float = 0.001
    """Size of step for lambda = 1."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        base.check_settings(self, integers={"lstm_units": 1}, finite=("step_mult",))

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        return "celo_adam"

    def init(self, key: Array) -> Theta:
        """Weights before meta-training, as `hk.Linear` has them."""
        return Theta(scheduler.init(key, INPUTS, self.lstm_units))

    def transform(
        self,
        theta: Theta,
        *,
        num_steps: int | Int[Array, ""] | None = None,
        network: PerParameterMLP = fused.apply,
        accumulator_dtype: Any = jnp.float32,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with these weights; `update` needs `value=`, the training loss.

        Args:
          theta: weights from `init`, meta-training or a release.
          num_steps: updates that the training run will make; needed.
          network: accepted as all rules do; this rule has no per-parameter network.
          accumulator_dtype: dtype of m and r; bfloat16 halves the state.

        Raises:
          InputError: theta of another rule, or a number of steps that is missing or below 1.
        """
        del network
        base.check_theta(self, theta)
        base.check_num_steps(num_steps, needed=True)

        def init(params: PyTree) -> State:
            base.check_params(params)
            acc = accumulators.init(params, m=1, r=1, factored=0, dtype=accumulator_dtype)
            lstm = recurrent.tiled(theta.scheduler.initial, 1)
            return base.unshared(State(jnp.zeros((), jnp.int32), acc, lstm, loss_features.init()), theta)

        def update(
            updates: PyTree, state: Any, params: PyTree = None, *, value: Any = None, **extra: Any
        ) -> tuple[PyTree, State]:
            del extra
            base.require_params(params)
            loss = base.require_value(self.name, value)
            losses, x = scheduler_inputs(state.t, state.losses, loss, num_steps)
            s, lstm = scheduler.step(theta.scheduler, x, state.lstm)
            t = jnp.asarray(optax.safe_increment(state.t))
            correction = lambda beta: -jnp.expm1(t.astype(jnp.float32) * np.float32(np.log(beta)))
            shared = Shared(self.step_mult * 0.1 * jnp.exp(s[0]), correction(BETA_1), correction(BETA_2))
            steps, acc = base.map_tensors(adam, None, shared, None, updates, params, state.accumulators)
            return steps, State(t, acc, lstm, losses)

        return optax.GradientTransformationExtraArgs(init, update)


def adam(static: None, shared: Shared, own: None, g: Array, p: Array, acc: Accumulators) -> tuple[Array, Accumulators]:
    """One step of Adam for one tensor."""
    decay = lambda beta: jnp.full((1,), beta, jnp.float32)
    acc = accumulators.update(acc, jnp.clip(g, -CLIP, CLIP), decay(BETA_1), decay(BETA_2), jnp.zeros((0,), jnp.float32))
    m, r = (x.astype(jnp.float32) for x in (*acc.m, *acc.r))
    direction = (m / shared.correction_1) / (jnp.sqrt(r / shared.correction_2 + 1e-10) + EPS)
    return -shared.size * direction, acc
