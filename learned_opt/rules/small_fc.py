"""small_fc: a four-unit network on per-parameter statistics.

Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein: "Practical tradeoffs between memory, compute, and
performance in learned optimizers", 2022 (arXiv:2203.11860); `AdafacMLPLOpt` in the published code.

For each tensor, with accumulators m (3 momenta), r (1 mean square), v (3 factored mean squares) updated by the
gradient g first (`learned_opt.accumulators`):

    x  = the 28 channels of `FEATURES`, each divided by its root mean square over the tensor
    c  = tanh(t / T - 1) for 11 time scales T, t = updates made before this one
    o  = MLP(x, c),  39 -> 4 -> 4 -> 2, ReLU
    p <- p - 0.001 o_0 exp(0.001 o_1)

The decays are learned too: d = 1 - exp(10 (ln(1 - d_0) / 10 + theta)), theta = 0 at the start.

It reads neither the loss nor the number of steps. Weights: 197. State: 4 floats per parameter and the factors.
Fails: far beyond the horizons it was meta-trained on, since its size of step is learned and not normalised.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from learned_opt import accumulators, features, fused
from learned_opt.accumulators import Accumulators
from learned_opt.features import Feature
from learned_opt.network import Layer, PerParameterMLP
from learned_opt.recurrent import initial_mlp
from learned_opt.rules import base

PyTree = Any

FEATURES = (
    Feature("gradient", 1, features.gradient),
    Feature("parameter", 1, features.parameter),
    Feature("momentum", 3, features.momentum),
    Feature("mean square", 1, features.mean_square),
    Feature("momentum / rms", 3, features.momentum_over_rms(1e-6)),
    Feature("1 / rms", 1, features.rsqrt_mean_square(1e-6)),
    Feature("factored gradient", 3, features.factored_gradient),
    Feature("row", 3, features.rows),
    Feature("column", 3, features.cols),
    Feature("1 / sqrt row", 3, features.rsqrt_rows(1e-8)),
    Feature("1 / sqrt column", 3, features.rsqrt_cols(1e-8)),
    Feature("factored momentum", 3, features.factored_momentum(1e-6)),
)
MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
RMS_DECAYS = (0.999,)
FACTORED_DECAYS = (0.9, 0.99, 0.999)


class Theta(NamedTuple):
    """Weights of the rule."""

    momentum_decays: Array
    """Shape [3], offset of the decays of m in the space of `decay`; zero is `MOMENTUM_DECAYS`."""
    rms_decays: Array
    """Shape [1], the same for r."""
    factored_decays: Array
    """Shape [3], the same for v."""
    layers: tuple[Layer, ...]
    """39 -> hidden -> … -> 2."""


class State(NamedTuple):
    """State of the optimizer."""

    t: Array
    """Updates made so far, int32 scalar."""
    accumulators: Accumulators


class Shared(NamedTuple):
    """What all tensors share in one update."""

    m: Array
    """Decays of the momenta, shape [3]."""
    r: Array
    """Decays of the mean squares, shape [1]."""
    v: Array
    """Decays of the factored mean squares, shape [3]."""
    c: Array
    """Time features, shape [11]."""
    layers: tuple[Layer, ...]
    """The network."""


@dataclass(frozen=True)
class SmallFC:
    """The rule with its settings; defaults are the published ones."""

    hidden: int = 4
    """Units of a hidden layer."""
    hidden_layers: int = 2
    """Hidden layers."""
    step_mult: float = 0.001
    """Parameter units per unit of the first output."""
    exp_mult: float = 0.001
    """Nats of step size per unit of the second output."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        base.check_settings(self, integers={"hidden": 1, "hidden_layers": 0}, finite=("step_mult", "exp_mult"))

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        return "small_fc"

    def init(self, key: Array) -> Theta:
        """Weights before meta-training: truncated normal of standard deviation 1/sqrt(inputs), zero biases."""
        sizes = (
            features.width(FEATURES) + len(features.TIME_SCALES),
            *(self.hidden,) * self.hidden_layers,
            2,
        )
        offsets = lambda decays: jnp.zeros((len(decays),), jnp.float32)
        return Theta(offsets(MOMENTUM_DECAYS), offsets(RMS_DECAYS), offsets(FACTORED_DECAYS), initial_mlp(key, sizes))

    def transform(
        self,
        theta: Theta,
        *,
        num_steps: int | Int[Array, ""] | None = None,
        network: PerParameterMLP = fused.apply,
        accumulator_dtype: Any = jnp.float32,
        multipliers: PyTree = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with these weights.

        Args:
          theta: weights from `init`, meta-training or a release.
          num_steps: accepted as all rules do; this rule does not read it.
          network: how the network is evaluated; `learned_opt.network.apply` is the plain reference.
          accumulator_dtype: dtype of m and r; bfloat16 halves the state.
          multipliers: factors of a width scaling (`learned_opt.mup`), a tree of scalars like the parameters.

        Raises:
          InputError: theta of another rule, or a number of steps below 1.
        """
        base.check_theta(self, theta)
        base.check_num_steps(num_steps, needed=False)

        def init(params: PyTree) -> State:
            base.check_params(params)
            counts = {"m": len(MOMENTUM_DECAYS), "r": len(RMS_DECAYS), "factored": len(FACTORED_DECAYS)}
            return State(jnp.zeros((), jnp.int32), accumulators.init(params, **counts, dtype=accumulator_dtype))

        def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, State]:
            del extra  # neither `value` nor anything else is read
            base.require_params(params)
            shared = Shared(
                decay(theta.momentum_decays, MOMENTUM_DECAYS),
                decay(theta.rms_decays, RMS_DECAYS),
                decay(theta.factored_decays, FACTORED_DECAYS),
                features.time(state.t),
                theta.layers,
            )
            own = base.numbers(params, multipliers)
            steps, acc = base.map_tensors(self._tensor, network, shared, own, updates, params, state.accumulators)
            return steps, State(jnp.asarray(optax.safe_increment(state.t)), acc)

        return optax.GradientTransformationExtraArgs(init, update)

    def _tensor(
        self, network: PerParameterMLP, shared: Shared, multiplier: Array | None, g: Array, p: Array, acc: Accumulators
    ) -> tuple[Array, Accumulators]:
        acc = accumulators.update(acc, g, shared.m, shared.r, shared.v)
        s = features.statistics(acc, g, p)
        o = network(features.collect(FEATURES, s), shared.c, shared.layers, shape=p.shape)
        size = self.step_mult if multiplier is None else self.step_mult * multiplier
        return -size * o[0] * jnp.exp(self.exp_mult * o[1]), acc


def decay(theta: Float[Array, " D"], initial: tuple[float, ...]) -> Float[Array, " D"]:
    """1 - exp(10 (ln(1 - initial) / 10 + theta)): the decays that the offsets `theta` stand for."""
    log_rest = np.log1p(-np.array(initial)).astype(np.float32)
    return 1.0 - jnp.exp(log_rest + 10.0 * theta)
