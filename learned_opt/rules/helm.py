"""Helm: a small network that steers, for each tensor, the size of step and the mixture of hand-made directions.

This project's own. It has no learning rate and no notion of units: rescaling the loss or any tensor changes nothing
but the scale of its steps. What tuning does by hand, the network does from what it sees while training.

Each update, for x = t / num_steps, the training loss l, and every tensor with n parameters:

    m_k <- b_k m_k + (1 - b_k) g,   r <- .99 r + (1 - .99) g^2       b = .9 .99 .999; M_k, R: over 1 - b^(t+1)
    q   = 1 / sqrt(R + 1e-10 mean(R))
    S_k = mean((M_k q)^2),   A = cos(g sqrt(q), m_0 sqrt(q))              of the old m_0: did the last steps agree?
    a_10, a_50 <- averages of A over about so many updates
    u   <- min(u, |l| / (n sqrt(mean R)))         how far the loss is away in this tensor alone, were it linear; g != 0
    U   = geometric mean of sqrt(f mean p^2) over matrices that are not zero       f: fan-in; 1 for vectors
    v   = min(exp(z_0) U / sqrt(f), exp(z_1) u)                              what a tensor at zero counts as
          of models whose matrices all start at zero, or that have none: z = 0; U is that of the other tensors at
          the start and at least 1, as initialisers have it; u is the largest so far and at least 2 % of U / sqrt(f).
          So is u once l was negative, or zero at t = 0, and some g not zero: l is then no distance
    G   = average over 50 updates of clip(-g . p / (4 |l|), -1, 1)         what l would gain from a longer tensor
    F   = the 31 inputs of `learned_opt.helm_inputs`
    o   = F W_0 + relu(F W_1 + mean over tensors(F W_2) + b_1) W_3 + b_3
    c   <- c + clip(o_0, -1, 1) / ((t + 10) ln 10 / 10)                   a drift in nats per decade of time
    eta = exp(c + o_1) ((1 - x)+^exp(s_0) + exp(s_1)) min(1, (t + 1) / (1 + num_steps exp(s_2)))
    e   = sum_k o_{2+k} B_k,   B = g q, M_0 q, M_1 q, M_2 q, M_0 / rms(M_0), M_1 / rms(M_1)
    e  <- (1 - o_10) e / rms(e) + o_10 N / rms(N),   N = o_2 g + o_3 M_0 + o_4 M_1 + o_5 M_2 divided by the
          root mean square in the eigenbasis of the gradients (`eigenbasis.py` says of which matrices); 0 <= o_10 <= 1
    E   = e as a matrix (all axes but the last together), its singular values made equal; a vector e is its own E
    d   = (1 - o_8) e / rms(e) + o_8 E / rms(E)
    p   <- p - eta sqrt(mean p^2 + v^2) (d / rms(d) + o_9 p / rms(p))        where R is not zero; 0 <= o_9 <= 0.3

Before meta-training o is constant but for the horizon: relative steps of `rate` sqrt(1000 / num_steps) along Adam's
B_1, with a linear schedule. `expert` has constants chosen by hand, those that did best on the suite `validation`, and
says in `learned_opt.helm_weights` what it hears. The orthogonalisation is that of Celo2 (`celo2.py`).

Reads the training loss and `num_steps`. Weights: 1,541. State: 4 floats per parameter and 6 per tensor; 1 to 5
more per parameter where there is an eigenbasis. Fails: where tensors that start at zero need steps of an unusual size
(v is a guess), where a loss depends very unevenly on the entries of one vector, and where `num_steps` is far too
small, since steps end with it.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from learned_opt import eigenbasis, fused, helm_weights, loss_slopes
from learned_opt.accumulators import Accumulators
from learned_opt.eigenbasis import Eigenbasis
from learned_opt.errors import InputError
from learned_opt.helm_inputs import (
    AGREEMENT,
    DECAYS,
    SMALL,
    TINY,
    UNKNOWN,
    Memory,
    Seen,
    corrected,
    growth,
    inputs,
    inverse_rms,
    observe,
)
from learned_opt.helm_sizes import at_zero, distance, origin
from learned_opt.helm_weights import Theta
from learned_opt.loss_slopes import LogAverages
from learned_opt.network import EXACT, PerParameterMLP
from learned_opt.recurrent import linear
from learned_opt.rules import base
from learned_opt.rules.celo2 import orthogonalise

PyTree = Any

MOST_DECAY = 0.3
"""Of o_9: beyond it a tensor can shrink faster than its gradient lengthens it, and does not come back."""


class State(NamedTuple):
    """State of the optimizer."""

    t: Array
    """Updates made so far, int32 scalar."""
    accumulators: Accumulators
    drift: Array
    """c, shape [tensors]."""
    agreement: Array
    """a, shape [tensors, 2]."""
    progress: PyTree
    """For each tensor an average over 10 updates of g . step / |l|, scalars in a tree like the parameters."""
    unit: Array
    """u, shape [tensors]; `UNKNOWN` before the first gradient."""
    origin: Array
    """U of a model whose matrices all start at zero, or that has none; 0 of the others."""
    signed: Array
    """Whether the loss was ever negative, or zero at the first step, where there was a gradient."""
    losses: LogAverages
    growth: Array
    """G, shape [tensors]."""
    eigenbasis: Eigenbasis
    """What N needs."""


class Own(NamedTuple):
    """What one tensor is given in one update."""

    size: Array
    """RMS of its step, in parameter units."""
    mixture: Array
    """o_2 … o_10."""


@dataclass(frozen=True)
class Helm:
    """The rule with its settings."""

    hidden: int = 16
    """Units of the hidden layer."""
    rate: float = 0.005
    """RMS of a step before meta-training, as a share of that of the parameters, in a run of 1,000 steps."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        base.check_settings(self, integers={"hidden": 1}, finite=("rate",))
        if self.rate <= 0:
            raise InputError(f"setting rate is {self.rate!r}: expected a positive number")

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        return "helm"

    def init(self, key: Array) -> Theta:
        """Weights before meta-training: those of the hidden layer as `hk.Linear` has them, its outputs at zero."""
        return helm_weights.initial(key, self.hidden, self.rate)

    def expert(self, key: Array) -> Theta:
        """Weights with the constants chosen by hand, whatever `rate` is."""
        return helm_weights.expert(key, self.hidden)

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
          accumulator_dtype: dtype of m and r; bfloat16 halves them, not the eigenbasis.

        Raises:
          InputError: theta of another rule, or a number of steps that is missing or below 1.
        """
        del network
        base.check_theta(self, theta)
        base.check_num_steps(num_steps, needed=True)

        def init(params: PyTree) -> State:
            base.check_params(params)
            n = len(jax.tree.leaves(params))
            acc = DECAYS.init(params, accumulator_dtype)
            progress = jax.tree.map(lambda _: jnp.zeros((), jnp.float32), params)
            unit = jnp.full((n,), UNKNOWN, jnp.float32)
            zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
            start = (zeros(n), zeros(n, AGREEMENT.size), progress, unit)
            sizes = (origin(params), jnp.zeros((), bool))
            return State(
                jnp.zeros((), jnp.int32), acc, *start, *sizes, loss_slopes.init(), zeros(n), eigenbasis.init(params)
            )

        def update(
            updates: PyTree, state: Any, params: PyTree = None, *, value: Any = None, **extra: Any
        ) -> tuple[PyTree, State]:
            del extra
            base.require_params(params)
            loss = base.require_value(self.name, value)
            h = loss_slopes.half_lives(num_steps)
            losses = loss_slopes.update(state.losses, loss, h)
            state, own = state._replace(losses=losses), None
            if jax.tree.leaves(params):
                seen = observe(updates, params, state.accumulators, state.t)
                state, own = steer(theta, state, seen, params, loss, num_steps)
            magnitude = jnp.where(jnp.isfinite(loss), jnp.abs(loss), jnp.inf)
            each = (state.accumulators, state.progress, state.eigenbasis)
            steps, each = base.map_tensors(_tensor, None, (state.t, magnitude), own, updates, params, each)
            t = jnp.asarray(optax.safe_increment(state.t))
            return steps, state._replace(t=t, accumulators=each[0], progress=each[1], eigenbasis=each[2])

        return optax.GradientTransformationExtraArgs(init, update)


def steer(theta: Theta, state: State, seen: Seen, params: PyTree, loss: Array, num_steps: Any) -> tuple[State, Own]:
    """What the network makes of the statistics: the state with drift, agreement and unit renewed, and the steps."""
    leaves = jax.tree.leaves(params)
    t, steps = state.t.astype(jnp.float32), jnp.maximum(jnp.asarray(num_steps, jnp.float32), 1.0)
    x = t / steps
    unit, signed = distance(state.unit, state.origin, state.signed, seen, loss, leaves)
    floor = at_zero(theta.zero, seen.p, unit, state.origin, signed, leaves)
    decay = jnp.asarray(AGREEMENT)[None]
    agreement = decay * state.agreement + (1.0 - decay) * seen.agreement[:, None]
    longer = growth(state.growth, seen, loss, signed)
    state = state._replace(unit=unit, signed=signed, agreement=agreement, growth=longer)
    memory = Memory(state.drift, agreement, jnp.stack(jax.tree.leaves(state.progress)), longer)
    f = inputs(seen, memory, floor, state.losses, signed, leaves, state.t, num_steps)
    mean = jnp.mean(jnp.matmul(f, theta.mean, precision=EXACT), axis=0, keepdims=True)
    hidden = jax.nn.relu(linear(theta.own, f) + mean)
    o = jnp.concatenate([linear(theta.step, f), linear(theta.mix, f)], axis=1)
    o = o + jnp.matmul(hidden, theta.out, precision=EXACT)
    drift = state.drift + jnp.clip(o[:, 0], -1.0, 1.0) / ((t + 10.0) * np.float32(math.log(10.0) / 10.0))
    power, least, warmup = jnp.exp(theta.schedule)
    schedule = jnp.maximum(1.0 - x, 1e-6) ** power + least
    schedule = schedule * jnp.minimum(1.0, (t + 1.0) / (1.0 + warmup * steps))
    eta = jnp.exp(jnp.clip(drift + o[:, 1], -25.0, 1.0)) * schedule
    size = eta * jnp.sqrt(seen.p + floor**2 + TINY)
    return state._replace(drift=drift), Own(size, o[:, 2:])


def _tensor(
    static: None,
    shared: tuple[Array, Array],
    own: Own,
    g: Array,
    p: Array,
    state: tuple[Accumulators, Array, Eigenbasis],
) -> tuple[Array, tuple[Accumulators, Array, Eigenbasis]]:
    del static
    t, magnitude = shared
    acc, progress, basis = state
    acc = DECAYS.update(acc, g)
    momenta, r = corrected(t, acc)
    q = inverse_rms(r)
    unit = jax.lax.rsqrt(jnp.mean(r) + TINY)
    inverse = lambda m: jax.lax.rsqrt(jnp.mean(m * m) + SMALL)
    along = [unit * inverse(unit * m) for m in momenta[:2]]
    o, matrix = own.mixture, eigenbasis.as_matrix(g.shape)
    # Those of one array together: what multiplies g, M_0, M_1 and M_2.
    factors = (o[0] * q, o[1] * q + o[4] * along[0], o[2] * q + o[5] * along[1], o[3] * q)
    e = sum(f * x for f, x in zip(factors, (g, *momenta), strict=True))
    e = inverse(e) * e
    if any(eigenbasis.sides(g.shape)):
        basis = eigenbasis.update(basis, g)
        N = o[0] * g + o[1] * momenta[0] + o[2] * momenta[1] + o[3] * momenta[2]
        N = eigenbasis.precondition(basis, N, t)
        share = jnp.clip(o[8], 0.0, 1.0)
        e = (1.0 - share) * e + (share * inverse(N)) * N
        e = inverse(e) * e
    d = e
    if matrix:
        E = orthogonalise(e.reshape(matrix)).reshape(e.shape)
        d = (1.0 - o[6]) * e + (o[6] * inverse(E)) * E
        d = inverse(d) * d
    p = p.astype(jnp.float32)
    # A tensor that the loss has never depended on stays as it is.
    size = jnp.where(jnp.mean(r) > 0, own.size, 0.0)
    shrink = jnp.clip(o[7], 0.0, MOST_DECAY)
    step = -size * (d + (shrink * jax.lax.rsqrt(jnp.mean(p * p) + TINY)) * p)
    progress = 0.9 * progress + 0.1 * jnp.sum(g * step) / (magnitude + TINY)
    return step, (acc, progress, basis)
