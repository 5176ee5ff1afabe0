"""rnn_mlp: an LSTM over tensors and a 32-unit network over parameters, which talk to each other.

Metz, Maheswaranathan, Freeman, Poole, Sohl-Dickstein: "Tasks, stability, architecture, and compute: training more
effective learned optimizers, and using them to train themselves", 2020 (arXiv:2009.11243); `RNNMLPLOpt` in the
published code.

Two losses l are inputs: the training loss, and the running mean of the validation losses (0 before there are any),
both measured by the statistics of the training losses (`learned_opt.loss_statistics`; decays 0.9 and 0.95).

Once per update, t the updates made before it, s from 0.01:

    u = 10 s / (1 - 0.99^(t + 1));  g <- clip(g, -u, u);  s <- 0.99 s + 0.01 sqrt(1e-8 + mean of all tensors' mean(g^2))

For each tensor, with 5 momenta m and mean squares r updated by g first (`learned_opt.accumulators`):

    h  = LSTM(from_lstm, from_mlp, l and 16 statistics of g, m, r and p),  the tensors are its batch
    x  = the 23 channels of `FEATURES`, each divided by its root mean square over the tensor
    c  = sin(t / (pi T)) for 11 time scales T, ln(tensors) - 1, ln(|p| + 1e-8), ln(parameters), h W_f + b_f
    o  = MLP(x, c),  54 -> 32 -> 32 -> 18, ReLU
    p <- p - 0.001 o_0 exp(0.001 o_1)
    from_mlp <- mean of o_2 … o_17 over the tensor,   from_lstm <- mean of h W_i + b_i over the tensors

It reads the training loss and, if there is one, `validation_value`; not the number of steps. A tensor without elements
counts as a tensor, with zeros for statistics and sizes of 1.

Weights: 35,799. State: 10 floats per parameter, 144 per tensor.
Fails: far beyond the horizons it was meta-trained on; and it costs 3,300 multiplications per parameter.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from learned_opt import accumulators, features, fused, loss_statistics, moments, recurrent
from learned_opt.accumulators import Accumulators
from learned_opt.errors import InputError
from learned_opt.features import Feature
from learned_opt.loss_statistics import LossStatistics
from learned_opt.network import Layer, PerParameterMLP
from learned_opt.recurrent import LSTMState
from learned_opt.rules import base

PyTree = Any

DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)
"""Of the momenta and of the mean squares."""
FEATURES = (
    Feature("gradient", 1, features.gradient),
    Feature("parameter", 1, features.parameter),
    Feature("log parameter", 1, features.log_parameter),
    Feature("momentum", 5, features.momentum),
    Feature("mean square", 5, features.mean_square),
    Feature("momentum / rms", 5, features.momentum_over_rms(1e-6)),
    Feature("1 / rms", 5, features.rsqrt_mean_square(1e-6)),
)
STATISTICS, FROM_LSTM, FROM_MLP, CONTROLS = 18, 18, 16, 17
"""Inputs of the LSTM: of the tensor, of the LSTM before, of the network before; and outputs that the network reads."""
TRAIN_DECAY, VALID_DECAY, CLIP_DECAY = 0.9, 0.95, 0.99
"""Of the statistics of the losses and of s."""


class Theta(NamedTuple):
    """Weights: what `State` starts from, shapes [18], [16] and [1, units], and the networks."""

    from_lstm: Array
    from_mlp: Array
    lstm_state: LSTMState
    lstm: Layer
    """52 + units -> 4 units."""
    to_lstm: Layer
    to_mlp: Layer
    """units -> 18, units -> 17."""
    layers: tuple[Layer, ...]
    """54 -> hidden -> … -> 18."""


class State(NamedTuple):
    """State of the optimizer; the tensors are in the order of the leaves."""

    t: Array
    """Updates made so far, int32 scalar."""
    accumulators: Accumulators
    lstm: LSTMState
    """Shape [tensors, units] each."""
    from_lstm: Array
    """Shape [18]."""
    from_mlp: Array
    """Shape [tensors, 16]."""
    train: LossStatistics
    valid: LossStatistics
    gradient_scale: Array
    """s, gradient units."""


@dataclass(frozen=True)
class RNNMLP:
    """The rule with its settings; defaults are the published ones."""

    units: int = 64
    """Units of the LSTM."""
    hidden: int = 32
    """Units of a hidden layer."""
    hidden_layers: int = 2
    """Hidden layers."""
    step_mult: float = 0.001
    """Parameter units per unit of the first output."""
    exp_mult: float = 0.001
    """Nats of step size per unit of the second output."""
    loss_epsilon: float = 1e-8
    """Added to 1 - decay^count under the running losses, at least 1e-30; 1e-7 in Celo's copy of the rule."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        integers = {"units": 1, "hidden": 1, "hidden_layers": 0}
        base.check_settings(self, integers=integers, finite=("step_mult", "exp_mult", "loss_epsilon"))
        if self.loss_epsilon < 1e-30:
            raise InputError(f"setting loss_epsilon is {self.loss_epsilon!r}: expected a number of at least 1e-30")

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        return "rnn_mlp"

    def init(self, key: Array) -> Theta:
        """Weights before meta-training: truncated normal of scale 1/sqrt(inputs), zero biases, zero LSTM state."""
        keys = jax.random.split(key, 6)
        zeros = lambda: jnp.zeros((1, self.units), jnp.float32)
        message = lambda key, n: recurrent.initial_linear(key, n, 1).w[:, 0] / np.float32(0.87962566)
        inputs = features.width(FEATURES) + len(features.TIME_SCALES) + 3 + CONTROLS
        return Theta(
            message(keys[0], FROM_LSTM),
            message(keys[1], FROM_MLP),
            LSTMState(zeros(), zeros()),
            recurrent.initial_linear(keys[2], FROM_LSTM + FROM_MLP + STATISTICS + self.units, 4 * self.units),
            recurrent.initial_linear(keys[3], self.units, FROM_LSTM),
            recurrent.initial_linear(keys[4], self.units, CONTROLS),
            recurrent.initial_mlp(keys[5], (inputs, *(self.hidden,) * self.hidden_layers, 2 + FROM_MLP)),
        )

    def transform(
        self,
        theta: Theta,
        *,
        num_steps: int | Int[Array, ""] | None = None,
        network: PerParameterMLP = fused.apply,
        accumulator_dtype: Any = jnp.float32,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with these weights; its `update` needs `value` and takes `validation_value`.

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

        def init(params: PyTree) -> State:
            base.check_params(params)
            n, d = len(jax.tree.leaves(params)), len(DECAYS)
            acc = accumulators.init(params, m=d, r=d, factored=0, dtype=accumulator_dtype)
            from_mlp = jnp.broadcast_to(theta.from_mlp[None], (n, FROM_MLP))
            memory = recurrent.tiled(theta.lstm_state, n), jnp.asarray(theta.from_lstm), from_mlp
            none = loss_statistics.init()
            state = State(jnp.zeros((), jnp.int32), acc, *memory, none, none, jnp.full((), 0.01, jnp.float32))
            return base.unshared(state, theta)

        def update(
            updates: Any, state: Any, params: Any = None, *, value: Any = None, validation_value: Any = None, **_: Any
        ) -> tuple[PyTree, State]:
            base.require_params(params)
            t, loss = jnp.asarray(optax.safe_increment(state.t)), base.require_value(self.name, value)
            train, valid = loss_statistics.update(state.train, loss, TRAIN_DECAY), state.valid
            if validation_value is not None:
                new = base.require_value(self.name, validation_value, "validation_value", "validation")
                valid = loss_statistics.update(valid, new, VALID_DECAY)
            state = state._replace(t=t, train=train, valid=valid)
            if not jax.tree.leaves(params):
                return updates, state
            losses = jnp.stack([loss, loss_statistics.mean(valid, VALID_DECAY, self.loss_epsilon)])
            losses = loss_statistics.deviations(train, losses, TRAIN_DECAY, self.loss_epsilon)
            return self._update(theta, network, losses, updates, params, state)

        return optax.GradientTransformationExtraArgs(init, update)

    def _update(
        self, theta: Theta, network: PerParameterMLP, losses: Array, updates: PyTree, params: PyTree, state: State
    ) -> tuple[PyTree, State]:
        tree, scale = jax.tree.structure(params), state.gradient_scale
        time = jnp.sin((state.t - 1) / (np.pi * np.array(features.TIME_SCALES, np.float32)))
        c = jnp.append(time, np.float32(np.log(tree.num_leaves) - 1.0))
        limit = 10.0 * scale / loss_statistics.weight(state.t, CLIP_DECAY)

        split, join = base.per_tensor(tree, state.accumulators)
        base.check_gradients(updates, params)
        leaves = zip(tree.flatten_up_to(updates), jax.tree.leaves(params), split, strict=True)
        seen = base.over_tensors(_take_in, None, (limit, state.from_lstm, losses), state.from_mlp, [*leaves])
        acc, *rest = zip(*seen, strict=True)
        inputs, sizes, squares = map(jnp.stack, rest)
        lstm = recurrent.lstm(theta.lstm, inputs, state.lstm)
        own = jnp.concatenate([sizes, recurrent.linear(theta.to_mlp, lstm.hidden)], axis=-1)
        shared, memory = (limit, c, theta.layers), (join([*acc]), tree.unflatten([*state.from_mlp]))
        steps, (acc, from_mlp) = base.map_tensors(self._tensor, network, shared, own, updates, params, memory)
        from_lstm = jnp.mean(recurrent.linear(theta.to_lstm, lstm.hidden), axis=0)
        scale = CLIP_DECAY * scale + (1.0 - CLIP_DECAY) * jnp.sqrt(1e-8 + jnp.mean(squares))
        memory = acc, lstm, from_lstm, jnp.stack(tree.flatten_up_to(from_mlp))
        return steps, State(state.t, *memory, state.train, state.valid, scale)

    def _tensor(
        self, network: PerParameterMLP, shared: Any, own: Array, g: Array, p: Array, state: tuple[Accumulators, Array]
    ) -> tuple[Array, tuple[Accumulators, Array]]:
        (limit, c, layers), (acc, _) = shared, state
        channels = features.collect(FEATURES, features.statistics(acc, jnp.clip(g, -limit, limit), p))
        o = network(channels, jnp.concatenate([c, own]), layers, shape=p.shape, averaged=FROM_MLP)
        return -self.step_mult * o[0] * jnp.exp(self.exp_mult * o[1]), (acc, jnp.stack(o[2:]).astype(jnp.float32))


def _take_in(
    static: None, shared: Any, from_mlp: Array, g: Array, p: Array, acc: Accumulators
) -> tuple[Accumulators, Float[Array, " 52"], Float[Array, " 2"], Float[Array, ""]]:
    """One gradient: new accumulators, inputs of the LSTM by published name, ln |p| and ln(parameters), mean of g^2."""
    limit, from_lstm, losses = shared
    g, p = jnp.clip(base.finite(g.astype(jnp.float32)), -limit, limit), p.astype(jnp.float32)
    decays = accumulators.fresh(jnp.array(DECAYS, jnp.float32))
    acc = accumulators.update(acc, g, decays, decays, jnp.zeros((0,), jnp.float32))
    log = lambda x: jnp.log(1e-8 + jnp.abs(x))
    clipped = lambda x: jnp.clip(log(x), -5.0, 5.0)
    mean = lambda xs: jnp.sum(jnp.stack([*map(jnp.sum, xs)])) / (len(xs) * max(p.size, 1))
    line = lambda xs: jnp.mean(jnp.stack([moments.mean_line(x) for x in xs]), axis=0)
    var = lambda xs: sum(moments.spread(x, line(xs)) for x in xs) / len(xs) if p.size else jnp.zeros((), jnp.float32)
    # Bounded away from 0, where the root has no derivative, and from infinity.
    norm = lambda x: jnp.sqrt(jnp.clip(jnp.sum(accumulators.fresh(x) ** 2), 1e-30, 1e38))
    m, r = ([x.astype(jnp.float32) for x in xs] for xs in (acc.m, acc.r))
    signed = [f(mean(xs)) for xs in (m, r, [p]) for f in (clipped, jnp.sign)]
    lengths = [np.log(max(n, 1)) - 1.0 for n in (*p.shape, 1, 1, 1, 1)[:4]]
    of_all = [clipped(norm(g)), 1.0 if p.ndim == 0 else -1.0, *signed, clipped(norm(p)), *lengths, *losses]
    numbers = jnp.stack([jnp.asarray(x, jnp.float32) for x in (*of_all, *(clipped(var(xs)) for xs in (m, r, [p])))])
    sizes = jnp.stack([log(norm(p)), jnp.full((), np.log(max(p.size, 1)), jnp.float32)])
    return acc, jnp.concatenate([from_lstm, from_mlp, numbers]), sizes, mean([accumulators.fresh((g, p))[0] ** 2])
