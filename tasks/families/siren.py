"""One image as a function from place to colour, by a network of sines."""

import math
from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.ranges import log_uniform_int
from tasks.sources import Source

OMEGA_0 = 30.0
"""omega_0 of Sitzmann et al., the frequency of the first layer."""
START = 0.7737
"""Fan-in times the variance that weights start with, that of a normal distribution truncated at two deviations."""


@dataclass(frozen=True)
class Siren:
    """A sinusoidal representation network (Sitzmann et al. 2020, arXiv:2006.09661), by mean squared error.

    The paper draws the weights so that, with n the fan-in of a layer,

        h_1 = sin(omega_0 W_1 x + b_1)      W_1 uniform in +-1/n                  omega_0 = 30
        h_i = sin(omega_0 W_i h + b_i)      W_i uniform in +-sqrt(6/n) / omega_0
        y   = W h + b                       W uniform in +-sqrt(6/n) / omega_0

    whence the arguments of sines have a variance of omega_0^2 |x|^2 / (3 n^2) in the first layer and of one in the
    others, and outputs have one of 1/omega_0^2. `ModelTask` starts weights with the variance START/n instead, so that
    here each product is multiplied by the constant that gives it the same variance. Steps of one size for all weights
    so move the first layer, relative to its start, faster against the others than in the paper. Phases b_i are
    uniform over a turn; in the published code those of the first layer span several.

    Attributes:
      width: of the layers of sines.
      depth: their number.
    """

    width: int
    depth: int

    @property
    def initial_loss(self) -> float:
        """The variance of standardised colours, plus 1/omega_0^2."""
        return 1 + OMEGA_0**-2

    @property
    def loss_cap(self) -> float:
        """1.5 times the loss of the mean colour, as for cross entropies."""
        return 1.5

    @property
    def dimensions(self) -> dict[str, int]:
        """The width of the layers of sines, and their number."""
        return {"width": self.width, "depth": self.depth}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"x": (B, 2) in [-1, 1], "y": (B, 3), standardised}; the mean is over colours too."""
        del training
        h, y = batch["x"], batch["y"]
        gain = OMEGA_0 / math.sqrt(3 * START * h.shape[1])
        for i in range(self.depth):
            phase = hk.get_parameter(f"phase_{i}", (self.width,), init=hk.initializers.RandomUniform(-math.pi, math.pi))
            h = jnp.sin(gain * hk.Linear(self.width, with_bias=False)(h) + phase[None])
            gain = math.sqrt(2 / START)  # the mean square of a sine over its turn is 1/2
        bias = hk.get_parameter("bias", (y.shape[1],), init=jnp.zeros)
        prediction = gain / OMEGA_0 * hk.Linear(y.shape[1], with_bias=False)(h) + bias[None]
        return ((prediction - y) ** 2).mean()


@dataclass(frozen=True)
class Sirens:
    """Networks of sines of random shape.

    Attributes:
      width: log-uniform.
      depth: number of layers of sines, log-uniform.
    """

    width: tuple[int, int] = (16, 64)
    depth: tuple[int, int] = (2, 3)

    def draw(self, key: Key[Array, ""], source: Source) -> Siren:
        """Draw a network; it fits all sources of places and colours."""
        del source
        key_width, key_depth = jax.random.split(key)
        return Siren(log_uniform_int(key_width, *self.width), log_uniform_int(key_depth, *self.depth))
