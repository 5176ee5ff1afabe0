"""What Helm sees of a tensor: statistics without a unit, of one step and of the steps before.

m_k, r   running statistics of the gradient (`DECAYS`);  M_k, R: divided by 1 - decay^(t+1)
q   = 1 / sqrt(R + 1e-10 mean(R))
S_k = mean((M_k q)^2)          the share of the gradient that is signal, at three time scales
A   = cos(g sqrt(q), m_0 sqrt(q))          of the old m_0: is this gradient along the last steps of Adam's kind, m_0 q?
                               Steep entries count most: flat ones that agree do not hide that those overshoot.
G   = average over 50 updates of clip(-g . p / (4 |l|), -1, 1)         what the loss l would gain from a longer tensor
                               -g . p / l = -d log l / d log |p|. Where all is learned by heart it is the margin of the
                               classes in nats; steps that were too long leave it negative, since weights are too large
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from learned_opt import loss_slopes
from learned_opt.accumulators import Accumulators, Decays, fresh
from learned_opt.loss_slopes import LogAverages
from learned_opt.rules import base

PyTree = Any

DECAYS = Decays(m=(0.9, 0.99, 0.999), r=(0.99,))
AGREEMENT = np.array((0.9, 0.98), np.float32)
"""Decays of the averages of A."""
INPUTS = 22 + loss_slopes.WIDTH
AGREEMENTS = (1, 2)
"""Places among the inputs of these averages."""
SIGNAL = (3, 4, 5)
"""Places among the inputs of ln(S_k) / 2."""
RANK = {1: 10, 2: 11, 3: 12}
"""Places among the inputs that tell vectors and scalars, matrices, and tensors of more axes apart."""
TIME = 16
"""Place of x, the share of the run that is over."""
EARLY = 19
"""Place of exp(-(t + 1) / 10)."""
LOG_STEPS = 20
"""Place of ln(num_steps) / 5 - 1."""
SLOPES = tuple(range(21, 21 + loss_slopes.WIDTH))
"""Places of f_0 … f_8, how the logarithm of the loss falls over ten time scales."""
GROWTH = 21 + loss_slopes.WIDTH
"""Place of G where it is positive, else zero."""
STEEP = 4.0
"""Elasticity of the loss that counts as 1 in G, and the most that one step says."""
FLOOR = 1e-10
"""Share of mean(R) that is added to R."""
TINY = 1e-24
"""Least mean square of a gradient that is told from zero; where it stands, derivatives stay finite in float32."""
SMALL = 1e-12
"""The same for what has no unit."""
UNKNOWN = 1e30
"""The unit u before the first gradient."""


class Memory(NamedTuple):
    """What is remembered of every tensor."""

    drift: Array
    """c, shape [tensors]."""
    agreement: Array
    """Averages of A over about 10 and 50 updates, not corrected, shape [tensors, 2]."""
    progress: Array
    """Average over 10 updates of g . step / |loss|, shape [tensors]."""
    growth: Array
    """G, shape [tensors]."""


class Seen(NamedTuple):
    """Statistics of one tensor, or arrays [tensors] of them."""

    p: Array
    """mean(p^2)."""
    r: Array
    """mean(R)."""
    g: Array
    """mean(g^2)."""
    agreement: Array
    """A."""
    signal: Array
    """S_k, shape [..., 3]."""
    radial: Array
    """g . p."""


def observe(updates: PyTree, params: PyTree, accumulators: Accumulators, t: Array) -> Seen:
    """Statistics of all tensors.

    Args:
      updates: gradients, a tree like `params`.
      params: the parameters, at least one tensor.
      accumulators: before this step's gradient.
      t: updates made before this one.
    """
    base.check_gradients(updates, params)
    tree = jax.tree.structure(params)
    each, _ = base.per_tensor(tree, accumulators)
    arguments = zip(tree.flatten_up_to(updates), tree.flatten_up_to(params), each, strict=True)
    seen = base.over_tensors(_observe, None, t, None, [*arguments])
    return jax.tree.map(lambda *xs: jnp.stack(xs), *seen)


def _observe(static: None, t: Array, own: None, g: Array, p: Array, acc: Accumulators) -> Seen:
    del static, own
    p = jnp.asarray(p, jnp.float32)
    if not p.size:
        zero = jnp.zeros((), jnp.float32)
        return Seen(zero, zero, zero, zero, jnp.zeros((3,), jnp.float32), zero)
    g = base.finite(jnp.asarray(g, jnp.float32))
    old = acc.m[0].astype(jnp.float32)
    momenta, r = corrected(t, DECAYS.update(fresh(acc)._replace(t=()), g))
    q = inverse_rms(r)
    mean = lambda x: jnp.mean(x * x)
    signal = jnp.stack([mean(m * q) for m in momenta])
    unit = jax.lax.rsqrt(jnp.mean(r) + TINY)
    within = lambda a, b: unit * jnp.mean((a * q) * b)  # in this order XLA stores an array less
    agreement = within(g, old) * jax.lax.rsqrt(within(g, g) * within(old, old) + SMALL)
    return Seen(mean(p), jnp.mean(r), mean(g), agreement, signal, jnp.sum(g * p))


def growth(
    before: Float[Array, " tensors"], seen: Seen, loss: Float[Array, ""], signed: Array
) -> Float[Array, " tensors"]:
    """G after this step; a loss that is zero, not finite or no distance from zero says nothing.

    Args:
      before: G before.
      seen: of this step.
      loss: of this step.
      signed: whether the loss is no distance from zero.
    """
    size = jnp.maximum(jnp.abs(loss), loss_slopes.LEAST)
    told = jnp.isfinite(loss) & (jnp.abs(loss) >= loss_slopes.LEAST) & ~signed
    now = jnp.clip(-seen.radial / (STEEP * size), -1.0, 1.0)
    return jnp.where(told, AGREEMENT[1] * before + (1.0 - AGREEMENT[1]) * now, before)


def corrected(t: Array, acc: Accumulators) -> tuple[list[Array], Array]:
    """M and R of one tensor, after t + 1 updates."""
    unbias = lambda x, d: x.astype(jnp.float32) / -jnp.expm1((t + 1.0) * np.float32(math.log(d)))
    return [unbias(m, d) for m, d in zip(acc.m, DECAYS.m, strict=True)], unbias(acc.r[0], DECAYS.r[0])


def inverse_rms(r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """q of one tensor."""
    return jax.lax.rsqrt(r + (FLOOR * jnp.mean(r) + TINY))


def inputs(
    seen: Seen,
    memory: Memory,
    zero: Float[Array, " tensors"],
    losses: LogAverages,
    signed: Array,
    leaves: list[Any],
    t: Array,
    num_steps: Any,
) -> Float[Array, "tensors 31"]:
    """F: what the network sees of every tensor, each of order one; nothing in it has a unit.

    Args:
      seen: of this step.
      memory: of the steps before; its agreement and growth already with this one.
      zero: v, what a tensor at zero counts as.
      losses: averages with this step's loss.
      signed: whether the loss is no distance from zero; its slopes then count as zero.
      leaves: the parameters.
      t: updates made before this one.
      num_steps: updates of the training run.
    """
    log = lambda value, least=TINY: jnp.log(jnp.maximum(value, least))
    tile = lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.float32), (len(leaves),))
    steps = jnp.maximum(jnp.asarray(num_steps, jnp.float32), 1.0)
    x = jnp.minimum(t.astype(jnp.float32) / steps, 1.0)
    t = t.astype(jnp.float32) + 1.0
    age = 1.0 - jnp.power(AGREEMENT, t)
    ranks = np.array([min(max(jnp.ndim(p), 1), 3) for p in leaves])
    size = np.log([max(1, jnp.size(p)) for p in leaves]).astype(np.float32)
    side = np.log([max(1, min(jnp.size(p) // max(1, p.shape[-1]), p.shape[-1])) if jnp.ndim(p) else 1 for p in leaves])
    columns = (
        seen.agreement, *(memory.agreement / age[None]).T, *(0.5 * log(seen.signal, SMALL)).T,
        0.25 * (log(seen.g) - log(seen.r)),
        memory.drift, jnp.clip(0.2 * log(jnp.abs(memory.progress) * steps + SMALL), -3.0, 3.0),
        jnp.clip(0.1 * (log(zero) - 0.5 * log(seen.p)), -2.0, 2.0),
        *(jnp.asarray((ranks == k).astype(np.float32)) for k in RANK),
        jnp.asarray(size / 5.0 - 1.0), jnp.asarray(side / 3.0 - 1.0, jnp.float32),
        tile(math.log(len(leaves)) / 3.0 - 1.0),
        tile(x), tile(x * x), tile(jnp.log(t) / 5.0 - 1.0), tile(jnp.exp(-t / 10.0)), tile(jnp.log(steps) / 5.0 - 1.0),
        *map(tile, jnp.where(signed, 0.0, loss_slopes.features(losses, loss_slopes.half_lives(num_steps)))),
        jnp.maximum(memory.growth, 0.0),
    )  # fmt: skip
    return jnp.stack(columns, axis=1)
