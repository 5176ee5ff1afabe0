"""nn_adam: Adam whose hyper-parameters an LSTM retunes, tensor by tensor, after every update.

`NNAdam` in the published code of google/learned_optimization; Adam is of Kingma & Ba, "Adam: a method for stochastic
optimization", 2014 (arXiv:1412.6980).

Every tensor has a learning rate a, decays b1 and b2 and an epsilon e of its own, kept as

    y = (ln(a) / 10, ln(1 - b1) / 10, ln(1 - b2) / 10, ln(e) / 10)
        a in [1e-8, 1e3], b1 and b2 in [0, 1 - exp(-10)], e in [1e-11, 1e4]

    g <- clip(g, -1000, 1000)
    m <- b1 m + (1 - b1) g;  r <- b2 r + (1 - b2) g^2                no bias correction
    p <- p - a (1 + e) / (e + sqrt(r + 1e-10)) m
    h <- LSTM(x)             x: 19 statistics of y and of the tensor, p before the update, m and r after it
    y <- clip(y + 0.01 (h W + b))

One LSTM of 32 units serves all tensors, its batch; nothing passes between them. At the start W = 0: it is Adam.

It reads neither the loss nor the number of steps. Weights: 6,856. State: 2 floats per parameter, and for each tensor
the 4 numbers y and 64 of the LSTM.
Fails: where the learning rate must follow a schedule, since no input tells the time; and without bias correction the
first steps of an untrained one are a tenth of Adam's over the root of a thousandth, about three times as long.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from learned_opt import accumulators, fused, recurrent
from learned_opt.accumulators import Accumulators
from learned_opt.errors import InputError
from learned_opt.network import Layer, PerParameterMLP
from learned_opt.recurrent import LSTMState
from learned_opt.rules import base

PyTree = Any

INPUTS = 19
"""Inputs of the LSTM."""
CLIP = 1000.0
"""Bound of the entries of a gradient."""


class Hyper(NamedTuple):
    """Hyper-parameters in the space that they are retuned in: arrays of shape [tensors], or scalars."""

    learning_rate: Array
    """ln(a) / 10; a in parameter units."""
    beta1: Array
    """ln(1 - b1) / 10."""
    beta2: Array
    """ln(1 - b2) / 10."""
    epsilon: Array
    """ln(e) / 10; e in gradient units."""


LOWEST = (math.log(1e-8) / 10.0, -1.0, -1.0, math.log(1e-11) / 10.0)
HIGHEST = (math.log(1e3) / 10.0, 0.0, 0.0, math.log(1e4) / 10.0)
"""Bounds of `Hyper`, in its order."""


class Theta(NamedTuple):
    """Weights of the rule."""

    hyper: Hyper
    """What every tensor starts with, four scalars."""
    lstm_state: LSTMState
    """What every tensor starts with, shape [1, units] each."""
    lstm: Layer
    """19 + units -> 4 units."""
    controls: Layer
    """units -> 4, in the order of `Hyper`."""


class State(NamedTuple):
    """State of the optimizer."""

    t: Array
    """Updates made so far, int32 scalar."""
    accumulators: Accumulators
    hyper: Hyper
    """Of every tensor in the order of the leaves, shape [tensors] each."""
    lstm: LSTMState
    """Of every tensor in the order of the leaves, shape [tensors, units] each."""


@dataclass(frozen=True)
class NNAdam:
    """The rule with its settings; defaults are the published ones."""

    units: int = 32
    """Units of the LSTM."""
    control_mult: float = 0.01
    """Change of `Hyper` in one update per unit of output."""
    initial_learning_rate: float = 1e-4
    """Before meta-training, parameter units."""
    initial_beta1: float = 0.9
    """Before meta-training."""
    initial_beta2: float = 0.999
    """Before meta-training."""
    initial_epsilon: float = 1e-8
    """Before meta-training, gradient units."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        initial = ("initial_learning_rate", "initial_epsilon", "initial_beta1", "initial_beta2")
        base.check_settings(self, integers={"units": 1}, finite=("control_mult", *initial))
        for name in ("initial_learning_rate", "initial_epsilon"):
            if getattr(self, name) <= 0:
                raise InputError(f"setting {name} is {getattr(self, name)!r}: expected a positive number")
        for name in ("initial_beta1", "initial_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"setting {name} is {getattr(self, name)!r}: expected a number in [0, 1)")

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        return "nn_adam"

    def init(self, key: Array) -> Theta:
        """Weights before meta-training: an LSTM as `hk.LSTM`, controls that change nothing, zero initial state."""
        rest = (self.initial_learning_rate, 1 - self.initial_beta1, 1 - self.initial_beta2, self.initial_epsilon)
        zeros = lambda: jnp.zeros((1, self.units), jnp.float32)
        return Theta(
            Hyper(*(jnp.asarray(math.log(x) / 10.0, jnp.float32) for x in rest)),
            LSTMState(zeros(), zeros()),
            recurrent.initial_linear(key, INPUTS + self.units, 4 * self.units),
            Layer(jnp.zeros((self.units, 4), jnp.float32), jnp.zeros((4,), jnp.float32)),
        )

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
          network: accepted as all rules do; this rule has no network applied to every parameter.
          accumulator_dtype: dtype of m and r; bfloat16 halves the state.

        Raises:
          InputError: theta of another rule, or a number of steps below 1.
        """
        del network
        base.check_theta(self, theta)
        base.check_num_steps(num_steps, needed=False)

        def init(params: PyTree) -> State:
            base.check_params(params)
            tensors = len(jax.tree.leaves(params))
            acc = accumulators.init(params, m=1, r=1, factored=0, dtype=accumulator_dtype)
            hyper = Hyper(*(jnp.broadcast_to(y, (tensors,)) for y in theta.hyper))
            lstm = recurrent.tiled(theta.lstm_state, tensors)
            return base.unshared(State(jnp.zeros((), jnp.int32), acc, hyper, lstm), theta)

        def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, State]:
            del extra  # neither `value` nor anything else is read
            base.require_params(params)
            t = jnp.asarray(optax.safe_increment(state.t))
            tree = jax.tree.structure(params)
            if not tree.num_leaves:
                return updates, state._replace(t=t)
            own = _bounded(state.hyper)
            steps, acc = base.map_tensors(_tensor, None, None, own, updates, params, state.accumulators)
            arguments = zip(
                jax.tree.leaves(updates), jax.tree.leaves(params), base.per_tensor(tree, acc)[0], strict=True
            )
            x = base.over_tensors(_lstm_inputs, None, None, state.hyper, [*arguments])
            lstm = recurrent.lstm(theta.lstm, jnp.stack(x), state.lstm)
            controls = jnp.moveaxis(self.control_mult * recurrent.linear(theta.controls, lstm.hidden), -1, 0)
            hyper = _bounded(Hyper(*(y + change for y, change in zip(state.hyper, controls, strict=True))))
            return steps, State(t, acc, hyper, lstm)

        return optax.GradientTransformationExtraArgs(init, update)


def _bounded(hyper: Hyper) -> Hyper:
    return Hyper(*(jnp.clip(*bounds) for bounds in zip(hyper, LOWEST, HIGHEST, strict=True)))


def _tensor(
    static: None, shared: None, own: Hyper, g: Array, p: Array, acc: Accumulators
) -> tuple[Array, Accumulators]:
    rate, eps = jnp.exp(10.0 * own.learning_rate), jnp.exp(10.0 * own.epsilon)
    beta1, beta2 = (-jnp.expm1(10.0 * y)[None] for y in (own.beta1, own.beta2))
    acc = accumulators.update(acc, jnp.clip(g, -CLIP, CLIP), beta1, beta2, jnp.zeros((0,), jnp.float32))
    m, r = acc.m[0].astype(jnp.float32), acc.r[0].astype(jnp.float32)
    return -rate * (1.0 + eps) / (eps + jnp.sqrt(r + 1e-10)) * m, acc


def _lstm_inputs(static: None, shared: None, own: Hyper, g: Array, p: Array, acc: Accumulators) -> Float[Array, " 19"]:
    """Inputs of the LSTM for one tensor, ordered by their published names; a tensor without elements is all zeros."""
    g, p = jnp.clip(base.finite(g.astype(jnp.float32)), -CLIP, CLIP), p.astype(jnp.float32)
    m, r = acc.m[0].astype(jnp.float32), acc.r[0].astype(jnp.float32)
    mean = lambda x: jnp.sum(x) / max(x.size, 1)
    var = lambda x: mean((x - mean(x)) ** 2)
    log = lambda x: 0.5 * jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5.0, 5.0)
    rate, beta1, beta2, eps = (0.2 * jnp.clip(y, -5.0, 5.0) for y in own)
    is_bias, is_scalar = (1.0 if p.ndim == axes else -1.0 for axes in (1, 0))
    signed = [value for x in (m, p) for value in (log(mean(x)), jnp.sign(mean(x)))]
    x = (beta1, beta2, eps, is_bias, is_scalar, rate, log(mean(g)), jnp.sign(mean(g)), log(mean(jnp.abs(g))), *signed)
    return jnp.stack([*map(jnp.asarray, x), log(mean(r)), jnp.sign(mean(r)), *(log(var(x)) for x in (g, m, p, r))])
