"""Weights of Helm: what they are, and where they begin, before meta-training or with constants chosen by hand.

See `learned_opt.rules.helm` for what each does. The expert tells vectors (0.6) and kernels of convolutions (0.5) apart,
goes along the orthogonalised 0.1 B_0 + B_1, a Muon whose steps are normalised for each tensor, with 0.05 p / rms(p) of
decay, and has eight hidden units that hear whether gradients agree, what longer tensors would gain, and how log |l|
falls (f_0 … f_8 of `learned_opt.loss_slopes`). They add to o_1, the logarithm of the size of step,

    2 (a_50 - 0.2)+  -  4 (-a_10 - 3 G+ - 0.25)+  -  4 (-a_50 - 3 G+ + (f_1 + … + f_5) / 20 - 0.1)+
        -  (-f_3 - … - f_8 - 1)+ / 2

to the decay (G+ - 0.5)+ / 2 and, with means over tensors,

    0.35 min(20 mean(G+), (x + mean(ln S_0) + 2.9 - 0.15 ln(num_steps / 1000) - 3 e^(-(t + 1) / 10))+)

and to the share of the eigenbasis 5 (-a_50 - 0.1)+. A gradient along the last steps says that longer ones would have
gained more; one against them that they were too long (Baydin et al. 2018, arXiv:1703.04782), or that they cross a
valley whose floor leads down. In the first case weights have become too large, in the second G is positive. Where the
loss has fallen to a small share of what it was, what is left asks for small steps. Where it would gain most from longer
weights, it is learned by heart, and more decay holds them. Late in a run it does so wherever longer weights gain and
gradients are noise (of noise alone S_0 is 0.05, along a valley less), since what is then learned is the examples. Where
gradients go on contradicting the steps, entries taken one by one do not tell walls from floors; the eigenbasis does.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from learned_opt.errors import InputError
from learned_opt.helm_inputs import AGREEMENTS, EARLY, GROWTH, INPUTS, LOG_STEPS, RANK, SIGNAL, SLOPES, TIME
from learned_opt.network import Layer
from learned_opt.recurrent import initial_linear

DIRECTIONS = 6
OUTPUTS = 2 + DIRECTIONS + 3
SIZE = 1
"""Place among the outputs of the logarithm of the size of step."""
DECAY = 9
"""Of the decay."""
SHARE = 10
"""Of the share of the eigenbasis."""
EXPONENT = -0.5
"""Of num_steps, in the size of a step before meta-training."""
EXPERT_RATE = 0.02
"""RMS of a step of the expert, as a share of that of the parameters, in a run of 1,000 steps."""


class Unit(NamedTuple):
    """A hidden unit: weight (sum of factors times inputs - threshold)+ is added to an output."""

    factors: dict[int, float]
    """Place of an input -> its factor; the others have 0."""
    threshold: float
    weight: float
    output: int = SIZE
    means: tuple[tuple[int, float], ...] = ()
    """Place of an input -> factor of its mean over tensors."""


def late(
    weight: float,
    slope: float = 20.0,
    noise: float = 2.0,
    threshold: float = -2.9,
    longer: float = 0.15,
    early: float = 3.0,
) -> tuple[Unit, Unit]:
    """Decay late in a run of what gradients that are noise still lengthen.

    It is weight times the smaller of slope mean(G+) and

        (x + noise mean(ln S_0) / 2 - longer ln(num_steps / 1000) - early e^(-(t + 1) / 10) - threshold)+

    Args:
      weight: of it.
      slope: of G.
      noise: 0 does not hear S_0.
      threshold: what time and noise must exceed.
      longer: how much later it begins in longer runs, which have shrunk more by then.
      early: keeps the first updates out, when S_0 is that of few gradients.
    """
    # ln(num_steps / 1000), in units of the input that is ln(num_steps) / 5 - 1.
    factors = {TIME: 1.0, LOG_STEPS: -5.0 * longer, EARLY: -early}
    time = Unit(factors, threshold + longer * (5.0 - math.log(1000.0)), weight, DECAY, ((SIGNAL[0], noise),))
    return time, time._replace(weight=-weight, means=((SIGNAL[0], noise), (GROWTH, -slope)))


HEARD = (
    Unit({AGREEMENTS[1]: 1.0}, 0.2, 2.0),
    Unit({AGREEMENTS[0]: -1.0, GROWTH: -3.0}, 0.25, -4.0),
    Unit({AGREEMENTS[1]: -1.0, GROWTH: -3.0} | dict.fromkeys(SLOPES[1:6], 0.05), 0.1, -4.0),
    Unit(dict.fromkeys(SLOPES[3:], -1.0), 1.0, -0.5),
    Unit({GROWTH: 1.0}, 0.5, 0.5, DECAY),
    Unit({AGREEMENTS[1]: -1.0}, 0.1, 5.0, SHARE),
    *late(0.35),
)
"""The hidden units of the expert."""


class Theta(NamedTuple):
    """Weights of the rule."""

    schedule: Array
    """s: logarithms of the exponent of the decay, of its floor, and of the share of the warm-up."""
    zero: Array
    """z: logarithms of what a tensor at zero counts as, in units of U and of u."""
    step: Layer
    """W_0, b_3, their first two columns: inputs -> o_0, o_1, which set the size of step."""
    mix: Layer
    """The others: inputs -> o_2 … o_10, which set the direction."""
    own: Layer
    """W_1, b_1: inputs -> hidden."""
    mean: Array
    """W_2: inputs -> hidden."""
    out: Array
    """W_3: hidden -> 11."""


def initial(key: Array, hidden: int, rate: float) -> Theta:
    """Weights before meta-training: those of the hidden layer as `hk.Linear` has them, its outputs at zero.

    Args:
      key: of the hidden layer.
      hidden: its units.
      rate: RMS of a step as a share of that of the parameters, in a run of 1,000 steps.
    """
    k_own, k_mean = jax.random.split(key)
    # exp(EXPONENT (ln(num_steps / 1000))), in units of the input that is ln(num_steps) / 5 - 1.
    slope = 5.0 * EXPONENT
    size = jnp.array([0.0, math.log(rate) - slope * (math.log(1000.0) / 5.0 - 1.0)], jnp.float32)
    mixture = jnp.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], jnp.float32)
    sizes = jnp.zeros((INPUTS, 2), jnp.float32).at[LOG_STEPS, 1].set(slope)
    return Theta(
        jnp.log(jnp.array([1.0, 0.001, 0.02], jnp.float32)),
        jnp.log(jnp.array([0.3, 0.1], jnp.float32)),
        Layer(sizes, size),
        Layer(jnp.zeros((INPUTS, mixture.size), jnp.float32), mixture),
        initial_linear(k_own, INPUTS, hidden),
        initial_linear(k_mean, INPUTS, hidden).w,
        jnp.zeros((hidden, OUTPUTS), jnp.float32),
    )


def expert(key: Array, hidden: int) -> Theta:
    """Weights with the constants chosen by hand; `key` and `hidden` as in `initial`."""
    theta = initial(key, hidden, EXPERT_RATE)
    mixture = jnp.array([0.1, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.05, 0.0], jnp.float32)
    # Vectors take smaller steps than matrices, and so do kernels of convolutions.
    sizes = theta.step.w.at[RANK[1], 1].set(math.log(0.6)).at[RANK[3], 1].set(math.log(0.5))
    step, mix = Layer(sizes, theta.step.b), theta.mix._replace(b=mixture)
    return hearing(theta._replace(step=step, mix=mix), HEARD)


def hearing(theta: Theta, units: tuple[Unit, ...]) -> Theta:
    """Theta with these hidden units; the others are silent.

    Raises:
      InputError: it has fewer.
    """
    n, hidden = len(units), theta.own.w.shape[1]
    if hidden < n:
        raise InputError(f"setting hidden is {hidden}: expected at least {n}, the units that the expert hears with")
    own = theta.own._replace(w=theta.own.w.at[:, :n].set(0.0), b=theta.own.b.at[:n].set(0.0))
    mean, out = theta.mean.at[:, :n].set(0.0), jnp.zeros_like(theta.out)
    for i, unit in enumerate(units):
        places = jnp.array(list(unit.factors), jnp.int32)
        w = own.w.at[places, i].set(jnp.array(list(unit.factors.values()), jnp.float32))
        own, out = Layer(w, own.b.at[i].set(-unit.threshold)), out.at[i, unit.output].set(unit.weight)
        for place, factor in unit.means:
            mean = mean.at[place, i].set(factor)
    return theta._replace(own=own, mean=mean, out=out)
