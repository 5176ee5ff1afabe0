"""A diffusion model of small images or vectors: a perceptron that predicts the noise."""

from collections.abc import Callable
from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tasks.families.layers import ACTIVATIONS
from tasks.ranges import choice, layer_widths
from tasks.sources import Source

FREQUENCIES = 8
"""Sines, and as many cosines, that a time is embedded in."""


def linear(t: Float[Array, " B"]) -> Float[Array, " B"]:
    """exp(-0.1 t - 9.95 t^2): the limit of many steps of Ho et al.'s linear schedule.

    Their rates, 1e-4 to 0.02 over 1,000 steps, become beta(t) = 0.1 + 19.9 t (Song et al. 2021, arXiv:2011.13456,
    appendix B), and alpha-bar the exponential of minus its integral.
    """
    return jnp.exp(-0.1 * t - 9.95 * t**2)


def cosine(t: Float[Array, " B"]) -> Float[Array, " B"]:
    """cos^2(pi/2 (t + s) / (1 + s)) over its value at 0, s = 0.008 (Nichol & Dhariwal 2021, arXiv:2102.09672)."""
    s = 0.008
    return (jnp.cos(np.pi / 2 * (t + s) / (1 + s)) / np.cos(np.pi / 2 * s / (1 + s))) ** 2


SCHEDULES: dict[str, Callable[[Array], Array]] = {"linear": linear, "cosine": cosine}
"""alpha-bar(t), the share of the variance at time t in [0, 1] that is signal."""


def embed(t: Float[Array, " B"]) -> Float[Array, "B E"]:
    """Sines and cosines of 1,000 t, of mean square 1, wavelengths in geometric progression (Vaswani et al. 2017)."""
    phase = t[:, None] * (1000 * 1e4 ** -(np.arange(FREQUENCIES) / FREQUENCIES))[None].astype(np.float32)
    return np.sqrt(2).astype(np.float32) * jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=1)


@dataclass(frozen=True)
class Diffusion:
    """A denoiser of data x_0, by the simple loss of Ho et al. (2020, arXiv:2006.11239, eq. 14).

        x_t = sqrt(alpha-bar(t)) x_0 + sqrt(1 - alpha-bar(t)) eps        t uniform in [0, 1], eps standard normal
        loss = mean (eps - net(x_t, t))^2                                over examples and their D entries

    Each call draws t and eps anew, and an evaluation always draws the same. The network is a perceptron that sees x_t
    and the embedding of t, side by side.

    Attributes:
      widths: of the hidden layers.
      activation: a key of `ACTIVATIONS`.
      schedule: a key of `SCHEDULES`.
    """

    widths: tuple[int, ...]
    activation: str
    schedule: str

    @property
    def initial_loss(self) -> float:
        """The variance of the noise, one, plus that of the network's output, which falls with depth."""
        return 1 + 0.6 * 0.4 ** len(self.widths)

    @property
    def loss_cap(self) -> float:
        """1.5 times the initial loss, as for cross entropies."""
        return 1.5 * self.initial_loss

    @property
    def dimensions(self) -> dict[str, int]:
        """The widest hidden layer, and their number."""
        return {"width": max(self.widths, default=0), "depth": len(self.widths)}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"image": (B, ...) in [0, 1]}, taken to [-1, 1]; or of {"x": (B, D) standardised}."""
        del training
        x = 2 * hk.Flatten()(batch["image"]) - 1 if "image" in batch else batch["x"]
        t = jax.random.uniform(hk.next_rng_key(), x.shape[:1])
        noise = jax.random.normal(hk.next_rng_key(), x.shape)
        signal = SCHEDULES[self.schedule](t)[:, None]
        # Near t = 0 rounding may leave more than all of the variance, and one NaN would be the loss of everybody.
        noisy = jnp.sqrt(signal) * x + jnp.sqrt(jnp.maximum(1 - signal, 0)) * noise
        net = hk.nets.MLP((*self.widths, x.shape[1]), activation=ACTIVATIONS[self.activation])
        return ((net(jnp.concatenate([noisy, embed(t)], axis=1)) - noise) ** 2).mean()


@dataclass(frozen=True)
class Diffusions:
    """Denoisers of random shape.

    Attributes:
      width: of each hidden layer, drawn one by one, log-uniform.
      depth: number of hidden layers, log-uniform.
      activations: keys of `ACTIVATIONS`, equally likely.
      schedules: keys of `SCHEDULES`, equally likely.
    """

    width: tuple[int, int] = (16, 64)
    depth: tuple[int, int] = (1, 3)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    schedules: tuple[str, ...] = ("linear", "cosine")

    def draw(self, key: Key[Array, ""], source: Source) -> Diffusion:
        """Draw a denoiser; it fits all images and vectors."""
        del source
        key_depth, key_width, key_activation, key_schedule = jax.random.split(key, 4)
        widths = layer_widths(key_depth, key_width, self.depth, self.width)
        return Diffusion(widths, choice(key_activation, self.activations), choice(key_schedule, self.schedules))
