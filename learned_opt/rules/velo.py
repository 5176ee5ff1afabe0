"""VeLO: an LSTM for each tensor that mixes a small network for its parameters out of a bank.

Metz, Harrison, Freeman, Merchant, Beyer, Bradbury, Agrawal, Poole, Mordatch, Roberts, Sohl-Dickstein: "VeLO: training
versatile learned optimizers by scaling up", 2022 (arXiv:2211.09760); `HyperV2` in the published code.

Each update, for t updates made before, the training loss l, and every tensor with gradient g clipped to +-1000:

    X     = [tanh(10 (t/num_steps - tau)) (9), loss features of l (9), L(mean r), rank (5, one-hot),
             L(var m) (3), L(mean (r - mean m)^2) (3)]        from m and r BEFORE this gradient
            L(x) = clip(ln(1e-8 + |10 x|), -5, 5) / 2;  m and r are first divided by the RMS of p
    s, h  = scheduler(X)                                      `learned_opt.scheduler`
    u     = h W_c + b_c                                       controls, one for each of the networks in the bank
    W     = ff_mult mean_i(u_i W_i)                           weights of this tensor's network
    m, r, v updated by g                                      `learned_opt.accumulators`
    x     = the 30 channels of `FEATURES`, each divided by its root mean square over the tensor
    o     = MLP_W(x),  30 -> 4 -> 4 -> 3, ReLU                the third output is not used
    p     <- p - 0.001 s o_0 exp(0.001 o_1) sqrt(mean p^2 + 1e-9)

The mean of m in the last channel of X is no slip of ours: weights were trained with it. Reads the training loss and
`num_steps`. Weights: 2,304,513 (512 units, 256 networks). State: 4 floats per parameter, the factors, 1,024 floats per
tensor. Fails: beyond `num_steps` its time features saturate; s has no sign that is enforced.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from learned_opt import accumulators, features, fused, loss_features, moments, recurrent, scheduler
from learned_opt.accumulators import Accumulators, Decays
from learned_opt.loss_features import LossAverages
from learned_opt.network import EXACT, Layer, PerParameterMLP
from learned_opt.recurrent import LSTMState
from learned_opt.rules import base
from learned_opt.scheduler import Scheduler

PyTree = Any

FEATURES = features.per_parameter(1e-6)
DECAYS = Decays(m=(0.9, 0.99, 0.999), r=(0.999,), factored=(0.9, 0.99, 0.999))
CLIP = 1000.0
INPUTS = 30
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
    """One row for each tensor, in the order of the leaves."""
    losses: LossAverages


class Own(NamedTuple):
    """What one tensor is given in one update."""

    s: Array
    """Its size of step, a scalar."""
    layers: tuple[Layer, ...]
    """Its network."""
    multiplier: Array | None
    """What multiplies its steps in the place of the RMS of its parameters, a scalar."""


@dataclass(frozen=True)
class VeLO:
    """The rule with its settings; defaults are those of the published weights."""

    lstm_units: int = 512
    """Units of the scheduler."""
    bank: int = 256
    """Networks in the bank."""
    hidden: int = 4
    """Units of a hidden layer of a network."""
    hidden_layers: int = 2
    """Hidden layers of a network."""
    ff_mult: float = 100.0
    """Factor on the mixed weights."""
    step_mult: float = 0.001
    """Share of the parameters' RMS per unit of the first output."""
    exp_mult: float = 0.001
    """Nats of step size per unit of the second output."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        integers = {"lstm_units": 1, "bank": 1, "hidden": 1, "hidden_layers": 0}
        base.check_settings(self, integers=integers, finite=("ff_mult", "step_mult", "exp_mult"))

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        return "velo"

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
        multipliers: PyTree = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with these weights; `update` needs `value=`, the training loss.

        Args:
          theta: weights from `init`, meta-training or a release.
          num_steps: updates that the training run will make; needed.
          network: how the network is evaluated; `learned_opt.network.apply` is the plain reference.
          accumulator_dtype: dtype of m and r; bfloat16 halves the state.
          multipliers: factors of a width scaling (`learned_opt.mup`), a tree of scalars like the parameters; they take
            the place of the RMS of the parameters.

        Raises:
          InputError: theta of another rule, or a number of steps that is missing or below 1.
        """
        base.check_theta(self, theta)
        base.check_num_steps(num_steps, needed=True)

        def init(params: PyTree) -> State:
            base.check_params(params)
            acc = DECAYS.init(params, accumulator_dtype)
            lstm = recurrent.tiled(theta.scheduler.initial, len(jax.tree.leaves(params)))
            return base.unshared(State(jnp.zeros((), jnp.int32), acc, lstm, loss_features.init()), theta)

        def update(
            updates: PyTree, state: Any, params: PyTree = None, *, value: Any = None, **extra: Any
        ) -> tuple[PyTree, State]:
            del extra
            base.require_params(params)
            h = loss_features.half_lives(num_steps)
            losses = loss_features.update(state.losses, base.require_value(self.name, value), h)
            lstm, own = state.lstm, None
            if jax.tree.leaves(params):
                same = (features.fraction_left(state.t, num_steps), loss_features.features(losses, h))
                x = tensor_inputs(same, params, state.accumulators)
                s, lstm = scheduler.step(theta.scheduler, x, state.lstm)
                own = Own(s, self._mix(theta, lstm.hidden), base.numbers(params, multipliers))
            steps, acc = base.map_tensors(self._tensor, network, None, own, updates, params, state.accumulators)
            return steps, State(jnp.asarray(optax.safe_increment(state.t)), acc, lstm, losses)

        return optax.GradientTransformationExtraArgs(init, update)

    def _mix(self, theta: Theta, h: Float[Array, "tensors units"]) -> tuple[Layer, ...]:
        u = recurrent.linear(theta.controls, h)
        mix = lambda w: self.ff_mult * jnp.tensordot(u, w, axes=1, precision=EXACT) / self.bank
        return jax.tree.map(mix, theta.bank)

    def _tensor(
        self, network: PerParameterMLP, shared: None, own: Own, g: Array, p: Array, acc: Accumulators
    ) -> tuple[Array, Accumulators]:
        # The decays, in a form that needs s: the accumulators are written after the scheduler read them, and in place.
        decays = (jnp.clip(jax.lax.stop_gradient(own.s), d, d) for d in DECAYS.arrays())
        g = jnp.clip(g, -CLIP, CLIP)
        acc = accumulators.update(acc, g, *decays)
        s = features.statistics(acc, g, p)
        o = network(features.collect(FEATURES, s), jnp.zeros((0,), jnp.float32), own.layers, shape=p.shape)
        scale = jnp.sqrt(jnp.mean(p * p) + 1e-9) if own.multiplier is None else own.multiplier
        return -(self.step_mult * own.s * scale) * o[0] * jnp.exp(self.exp_mult * o[1]), acc


def tensor_inputs(same: tuple[Array, Array], params: PyTree, acc: Accumulators) -> Float[Array, "tensors 30"]:
    """X: what the scheduler sees of every tensor.

    Args:
      same: inputs that are the same for all tensors: time features [9] and loss features [9].
      params: the parameters, at least one tensor.
      acc: the accumulators before this step's gradient.
    """
    tree = jax.tree.structure(params)
    per_tensor, _ = base.per_tensor(tree, (acc.m, acc.r))
    leaves = [jnp.asarray(p) for p in tree.flatten_up_to(params)]
    statistics = base.over_tensors(_moments, None, None, None, [*zip(leaves, per_tensor, strict=True)])
    rank = [sum(n > 1 for n in p.shape) for p in leaves]
    # Five and more axes longer than one: all zeros.
    rank = np.array([[float(n == k) for k in range(5)] for n in rank], np.float32)
    mean_r, var_m, var_r = (jnp.stack(x) for x in zip(*statistics, strict=True))
    log = lambda x: 0.5 * jnp.clip(jnp.log(1e-8 + jnp.abs(10.0 * x)), -5.0, 5.0)
    tile = lambda x: jnp.broadcast_to(x, (len(leaves), x.size))
    return jnp.concatenate([*map(tile, same), log(mean_r), rank, log(var_m), log(var_r)], axis=1)


def _moments(
    static: None, shared: None, own: None, p: Array, acc: tuple[tuple[Array, ...], tuple[Array, ...]]
) -> tuple[Float[Array, " 1"], Float[Array, " 3"], Float[Array, " 3"]]:
    if not p.size:
        zeros = jnp.zeros((3,), jnp.float32)
        return zeros[:1], zeros, zeros
    p, (m, (r,)) = p.astype(jnp.float32), jax.tree.map(lambda x: x.astype(jnp.float32), acc)
    s = jax.lax.rsqrt(jnp.maximum(1e-9, jnp.mean(p * p)))
    means = [moments.mean_line(x) for x in m]
    var_m = jnp.stack([moments.spread(x, mean) for x, mean in zip(m, means, strict=True)])
    var_r = jnp.stack([moments.spread(r, mean) for mean in means])
    return s * jnp.mean(r)[None], s * s * var_m, s * s * var_r
