"""Celo: VeLO's parts, few weights: one small network for all tensors, and an LSTM that only sets the size of step.

Moudgil, Knyazev, Lajoie, Belilovsky: "Celo: training versatile learned optimizers on a compute diet", 2025
(arXiv:2501.12670).

Each update, for t updates made before, the training loss l, and every tensor with gradient g clipped to +-1000:

    X    = [tanh(10 (t/num_steps - tau)) (9), loss features of l (9)]          the same for all tensors
    s, h = scheduler(X),  u = softmax(h W_c + b_c)                             `learned_opt.scheduler`
    W    = mean_i(u_i W_i)                                                     one network by default: W = W_0
    m, r, v updated by g                                                       `learned_opt.accumulators`
    x    = the 30 channels of VeLO, each divided by its root mean square over the tensor
    o    = MLP_W(x),  30 -> 4 -> 4 -> 3, ReLU                                  the third output is not used
    p    <- p - 0.001 lambda o_0 exp(0.001 o_1) sqrt(mean p^2 + 1e-9),   lambda = 0.1 exp(s)

Meta-training has two phases: first the network alone, with lambda = 1 (`phase=1`), then the scheduler alone.
All tensors have the same X, so the state of the LSTM is one row, not one for each tensor as in the published code.

Reads the training loss and `num_steps`. Weights: 35,873 (published files hold 1,216 more, of a layer that is thrown
away). State: 4 floats per parameter and the factors. Fails: at horizons beyond those it was meta-trained on, and in
validation loss on small data.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from learned_opt import features, fused, loss_features, recurrent, scheduler
from learned_opt.accumulators import Accumulators
from learned_opt.errors import InputError
from learned_opt.loss_features import LossAverages
from learned_opt.network import EXACT, Layer, PerParameterMLP
from learned_opt.recurrent import LSTMState
from learned_opt.rules import base
from learned_opt.rules.velo import CLIP, DECAYS, FEATURES
from learned_opt.scheduler import Scheduler

PyTree = Any

INPUTS = 18
"""Width of X."""


class Theta(NamedTuple):
    """Weights of the rule."""

    scheduler: Scheduler
    controls: Layer
    """Units -> networks in the bank."""
    bank: tuple[Layer, ...]
    """30 -> hidden -> … -> 3, all with a leading axis for the networks."""


class State(NamedTuple):
    """State of the optimizer."""

    t: Array
    """Updates made so far, int32 scalar."""
    accumulators: Accumulators
    lstm: LSTMState
    """One row."""
    losses: LossAverages


class Shared(NamedTuple):
    """What all tensors share in one update."""

    size: Array
    """lambda, a scalar."""
    layers: tuple[Layer, ...]
    """The network."""


@dataclass(frozen=True)
class Celo:
    """The rule with its settings; defaults are the published ones."""

    lstm_units: int = 64
    """Units of the scheduler."""
    bank: int = 1
    """Networks in the bank."""
    hidden: int = 4
    """Units of a hidden layer of a network."""
    hidden_layers: int = 2
    """Hidden layers of a network."""
    step_mult: float = 0.001
    """Share of the parameters' RMS per unit of the first output."""
    exp_mult: float = 0.001
    """Nats of step size per unit of the second output."""
    phase: int = 2
    """Phase of meta-training: 1, without the scheduler; 2, with it, which is what one uses."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        integers = {"lstm_units": 1, "bank": 1, "hidden": 1, "hidden_layers": 0}
        base.check_settings(self, integers=integers, finite=("step_mult", "exp_mult"))
        if self.phase not in (1, 2):
            raise InputError(f"setting phase is {self.phase!r}: expected 1 or 2")

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        return "celo"

    def init(self, key: Array) -> Theta:
        """Weights before meta-training, as `hk.Linear` has them."""
        k_scheduler, k_controls, k_bank = jax.random.split(key, 3)
        sizes = (features.width(FEATURES), *(self.hidden,) * self.hidden_layers, 3)
        return Theta(
            scheduler.init(k_scheduler, INPUTS, self.lstm_units),
            recurrent.initial_linear(k_controls, self.lstm_units, self.bank),
            jax.vmap(lambda key: recurrent.initial_mlp(key, sizes))(jax.random.split(k_bank, self.bank)),
        )

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
          network: how the network is evaluated; `learned_opt.network.apply` is the plain reference.
          accumulator_dtype: dtype of m and r; bfloat16 halves the state.

        Raises:
          InputError: theta of another rule, or a number of steps that is missing or below 1.
        """
        base.check_theta(self, theta)
        base.check_num_steps(num_steps, needed=True)

        def init(params: PyTree) -> State:
            base.check_params(params)
            acc = DECAYS.init(params, accumulator_dtype)
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
            u = jax.nn.softmax(recurrent.linear(theta.controls, lstm.hidden)[0])
            mix = lambda w: jnp.tensordot(u, w, axes=1, precision=EXACT) / self.bank
            size = 0.1 * jnp.exp(s[0]) if self.phase == 2 else jnp.float32(1.0)
            shared = Shared(size, jax.tree.map(mix, theta.bank))
            steps, acc = base.map_tensors(self._tensor, network, shared, None, updates, params, state.accumulators)
            return steps, State(jnp.asarray(optax.safe_increment(state.t)), acc, lstm, losses)

        return optax.GradientTransformationExtraArgs(init, update)

    def _tensor(
        self, network: PerParameterMLP, shared: Shared, own: None, g: Array, p: Array, acc: Accumulators
    ) -> tuple[Array, Accumulators]:
        g = jnp.clip(g, -CLIP, CLIP)
        acc = DECAYS.update(acc, g)
        s = features.statistics(acc, g, p)
        o = network(features.collect(FEATURES, s), jnp.zeros((0,), jnp.float32), shared.layers, shape=p.shape)
        scale = self.step_mult * shared.size * jnp.sqrt(jnp.mean(p * p) + 1e-9)
        return -scale * o[0] * jnp.exp(self.exp_mult * o[1]), acc


def scheduler_inputs(
    t: Int[Array, ""], losses: LossAverages, loss: Array, num_steps: int | Int[Array, ""] | None
) -> tuple[LossAverages, Array]:
    """The loss averages after this loss, and X of shape [1, 18]."""
    h = loss_features.half_lives(num_steps)
    losses = loss_features.update(losses, loss, h)
    return losses, jnp.concatenate([features.fraction_left(t, num_steps), loss_features.features(losses, h)])[None]
