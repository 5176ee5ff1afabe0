"""Celo2-base: a small network gives the direction, normalised to RMS 1; the size of step is an ordinary rate.

Moudgil, Knyazev, Belilovsky: "Celo2: towards learned optimization free lunch", ICLR 2026 (arXiv:2602.19142).

For each tensor, with g clipped to +-1000 and m (3), r (1), v (3) updated by it (`learned_opt.accumulators`):

    x  = the 30 channels of `FEATURES`, each divided by its root mean square over the last two axes (eps 1e-9)
         vectors and scalars have no factored channels: their 15 channels meet the first 15 rows of the first layer
    o  = MLP(x),  30 -> 8 -> 8 -> 3, ReLU                        the second and third output are not used
    s  = o_0 / sqrt(1e-9 + mean(o_0^2))                          mean over the last two axes
    p <- p - step_mult s

It reads neither the loss nor the number of steps, and has no notion of time: any schedule may multiply it, and weight
decay is an ordinary one (`learned_opt.chain`). Weights: 347. State: 4 floats per parameter and the factors. Fails: with
a constant rate it cannot converge, since every step has RMS `step_mult`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from learned_opt import features, fused
from learned_opt.accumulators import Accumulators, Decays
from learned_opt.errors import InputError
from learned_opt.network import Layer, PerParameterMLP
from learned_opt.recurrent import initial_mlp
from learned_opt.rules import base

PyTree = Any

FEATURES = features.per_parameter(1e-8)
VECTOR_FEATURES = FEATURES[: features.VECTOR]
DECAYS = Decays(m=(0.9, 0.99, 0.999), r=(0.95,), factored=(0.9, 0.99, 0.999))
CLIP = 1000.0
_OVER_RMS, _GRADIENT_OVER_RMS = 7, 14
"""Channels of the momentum of decay 0.9, and of the gradient, over the root of the mean square."""
EPS = 1e-9


class Theta(NamedTuple):
    """Weights of the rule."""

    layers: tuple[Layer, ...]
    """30 -> hidden -> … -> 3."""


class State(NamedTuple):
    """State of the optimizer."""

    accumulators: Accumulators


@dataclass(frozen=True)
class Celo2Base:
    """The rule with its settings; defaults are the published ones."""

    hidden: int = 8
    """Units of a hidden layer."""
    hidden_layers: int = 2
    """Hidden layers."""
    step_mult: float = 0.001
    """RMS of a step, in parameter units."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        base.check_settings(self, integers={"hidden": 1, "hidden_layers": 0}, finite=("step_mult",))

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        return "celo2_base"

    def init(self, key: Array) -> Theta:
        """Weights before meta-training: truncated normal of standard deviation 1/sqrt(inputs), zero biases."""
        return Theta(initial_mlp(key, (features.width(FEATURES), *(self.hidden,) * self.hidden_layers, 3)))

    def expert(self, key: Array) -> Theta:
        """Weights that imitate an expert before meta-training, see `expert`."""
        return expert(self.init(key))

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
          accumulator_dtype: dtype of m and r; bfloat16 halves the state.

        Raises:
          InputError: theta of another rule, or a number of steps below 1.
        """
        base.check_theta(self, theta)
        base.check_num_steps(num_steps, needed=False)

        def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, State]:
            del extra
            base.require_params(params)
            steps, acc = base.map_tensors(
                self._tensor, network, theta.layers, None, updates, params, state.accumulators
            )
            return steps, State(acc)

        return optax.GradientTransformationExtraArgs(lambda params: init(params, accumulator_dtype), update)

    def _tensor(
        self, network: PerParameterMLP, layers: tuple[Layer, ...], own: None, g: Array, p: Array, acc: Accumulators
    ) -> tuple[Array, Accumulators]:
        direction, acc = network_direction(network, layers, g, p, acc)
        return -self.step_mult * unit_rms(direction), acc


def expert(theta: Theta) -> Theta:
    """`theta`, changed so that o_0 is a normalised Adam with Nesterov's momentum: f = m_0 / rms + 0.3 g / rms.

    f and -f pass the ReLUs through the first two units of every hidden layer; the output reads no other units. So the
    rule starts as what is known to work, and the other units are there to improve on it.

    Raises:
      InputError: hidden layers of one unit.
    """
    *hidden, last = theta.layers
    if any(layer.b.size < 2 for layer in hidden):
        raise InputError("setting hidden is 1: an expert's direction passes through two units, expected at least 2")
    read = jnp.zeros((features.width(FEATURES),), jnp.float32).at[_OVER_RMS].set(1.0).at[_GRADIENT_OVER_RMS].set(0.3)
    signs, layers = jnp.array([1.0, -1.0], jnp.float32), []
    for i, layer in enumerate(hidden):
        pair = read[:, None] * signs[None] if i == 0 else jnp.eye(layer.w.shape[0], 2, dtype=jnp.float32)
        layers.append(Layer(layer.w.at[:, :2].set(pair), layer.b.at[:2].set(0.0)))
    out = jnp.zeros_like(last.w).at[:, 0].set(read) if not hidden else jnp.zeros_like(last.w).at[:2, 0].set(signs)
    return Theta((*layers, Layer(out, jnp.zeros_like(last.b))))


def init(params: PyTree, dtype: Any) -> State:
    """State before the first update."""
    base.check_params(params)
    return State(DECAYS.init(params, dtype))


def network_direction(
    network: PerParameterMLP, layers: tuple[Layer, ...], g: Array, p: Array, acc: Accumulators
) -> tuple[Array, Accumulators]:
    """o_0 of one tensor, and its accumulators."""
    g = jnp.clip(g, -CLIP, CLIP)
    acc = DECAYS.update(acc, g)
    table = FEATURES if p.ndim >= 2 else VECTOR_FEATURES
    first, *rest = layers
    first = Layer(first.w[: features.width(table)], first.b)
    blocks = features.collect(table, features.statistics(acc, g, p))
    axes = tuple(range(p.ndim))[-2:]
    o = network(blocks, jnp.zeros((0,), jnp.float32), (first, *rest), shape=p.shape, eps=EPS, axes=axes)
    return o[0], acc


def unit_rms(s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """s divided by its root mean square over the last two axes."""
    axes = tuple(range(s.ndim))[-2:]
    return s * jax.lax.rsqrt(EPS + jnp.mean(s * s, axis=axes, keepdims=True))
