"""MLP (LOLv2): a plain network on gradient, parameter and six momenta.

Metz, Maheswaranathan, Freeman, Poole, Sohl-Dickstein: "Tasks, stability, architecture, and compute: training more
effective learned optimizers, and using them to train themselves", 2020 (arXiv:2009.11243), its per-parameter part;
`MLPLOpt` in the published code.

For each tensor, with momenta m of six decays updated by the gradient g first:

    x  = [g, p, m (6)], each divided by its root mean square over the tensor
    c  = tanh(t / T - 1) for 11 time scales T, t = updates made before this one
    o  = MLP(x, c),  19 -> 32 -> 32 -> 2, ReLU
    p <- p - 0.001 o_0 exp(0.001 o_1)

It reads neither the loss nor the number of steps. Weights: 1,762. State: 6 floats per parameter. Fails: where gradients
are small, since nothing measures them: the step is what the network makes of their pattern.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from learned_opt import features, fused
from learned_opt.accumulators import Accumulators, Decays
from learned_opt.features import Feature
from learned_opt.network import Layer, PerParameterMLP
from learned_opt.recurrent import initial_mlp
from learned_opt.rules import base

PyTree = Any

FEATURES = (
    Feature("gradient", 1, features.gradient),
    Feature("parameter", 1, features.parameter),
    Feature("momentum", 6, features.momentum),
)
DECAYS = Decays(m=(0.1, 0.5, 0.9, 0.99, 0.999, 0.9999))


class Theta(NamedTuple):
    """Weights of the rule."""

    layers: tuple[Layer, ...]
    """19 -> hidden -> … -> 2."""


class State(NamedTuple):
    """State of the optimizer."""

    t: Array
    """Updates made so far, int32 scalar."""
    accumulators: Accumulators


class Shared(NamedTuple):
    """What all tensors share in one update."""

    c: Array
    """Time features, shape [11]."""
    layers: tuple[Layer, ...]
    """The network."""


@dataclass(frozen=True)
class MLP:
    """The rule with its settings; defaults are the published ones."""

    hidden: int = 32
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
        return "mlp"

    def init(self, key: Array) -> Theta:
        """Weights before meta-training: truncated normal of standard deviation 1/sqrt(inputs), zero biases."""
        inputs = features.width(FEATURES) + len(features.TIME_SCALES)
        return Theta(initial_mlp(key, (inputs, *(self.hidden,) * self.hidden_layers, 2)))

    def transform(
        self,
        theta: Theta,
        *,
        num_steps: int | Int[Array, ""] | None = None,
        network: PerParameterMLP = fused.apply,
        accumulator_dtype: Any = jnp.float32,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with these weights.

        Args:
          theta: weights from `init`, meta-training or a release.
          num_steps: accepted as all rules do; this rule does not read it.
          network: how the network is evaluated; `learned_opt.network.apply` is the plain reference.
          accumulator_dtype: dtype of m; bfloat16 halves the state.

        Raises:
          InputError: theta of another rule, or a number of steps below 1.
        """
        base.check_theta(self, theta)
        base.check_num_steps(num_steps, needed=False)

        def init(params: PyTree) -> State:
            base.check_params(params)
            return State(jnp.zeros((), jnp.int32), DECAYS.init(params, accumulator_dtype))

        def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, State]:
            del extra
            base.require_params(params)
            shared = Shared(features.time(state.t), theta.layers)
            steps, acc = base.map_tensors(self._tensor, network, shared, None, updates, params, state.accumulators)
            return steps, State(jnp.asarray(optax.safe_increment(state.t)), acc)

        return optax.GradientTransformationExtraArgs(init, update)

    def _tensor(
        self, network: PerParameterMLP, shared: Shared, own: None, g: Array, p: Array, acc: Accumulators
    ) -> tuple[Array, Accumulators]:
        acc = DECAYS.update(acc, g)
        s = features.statistics(acc, g, p)
        o = network(features.collect(FEATURES, s), shared.c, shared.layers, shape=p.shape)
        return -self.step_mult * o[0] * jnp.exp(self.exp_mult * o[1]), acc
