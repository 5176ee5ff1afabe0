"""Image autoencoding by a multi-layer perceptron, as the tasks called ImageMLPAE_* of google/learned_optimization."""

from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tasks.families.layers import ACTIVATIONS
from tasks.ranges import choice, layer_widths
from tasks.sources import Source, field_shape


@dataclass(frozen=True)
class Autoencoder:
    """A perceptron that reproduces images with pixels in [0, 1]: mean squared error per pixel, at most one.

    Hidden layers are linear maps with biases followed by the activation; a linear layer and a sigmoid give the pixels.

    Attributes:
      widths: of the hidden layers.
      activation: a key of `ACTIVATIONS`.
      initial_loss: the loss of a constant half, which depends on the data: `half_loss`.
    """

    widths: tuple[int, ...]
    activation: str
    initial_loss: float

    @property
    def loss_cap(self) -> float:
        """1.5 times the loss of a constant half."""
        return 1.5 * self.initial_loss

    @property
    def dimensions(self) -> dict[str, int]:
        """The widest hidden layer, and their number."""
        return {"width": max(self.widths, default=0), "depth": len(self.widths)}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"image": (B, ...)}."""
        del training
        x = hk.Flatten()(batch["image"])
        logits = hk.nets.MLP((*self.widths, x.shape[-1]), activation=ACTIVATIONS[self.activation])(x)
        return jnp.square(x - jax.nn.sigmoid(logits)).mean(dtype=jnp.float32)


def half_loss(source: Source) -> float:
    """Mean squared distance of the pixels that an evaluation on "train" sees from one half, to three digits.

    Raises:
      InputError: the data are no images.
    """
    field_shape(jax.random.key(0), source, "image")
    image = np.asarray(source.held("train")["image"], np.float64)
    return float(f"{np.square(image - 0.5).mean():.3g}")


@dataclass(frozen=True)
class Autoencoders:
    """Autoencoders of random shape.

    Attributes:
      width: of each hidden layer, drawn one by one, log-uniform.
      depth: number of hidden layers, log-uniform.
      activations: keys of `ACTIVATIONS`, equally likely.
    """

    width: tuple[int, int] = (8, 64)
    depth: tuple[int, int] = (1, 4)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)

    def draw(self, key: Key[Array, ""], source: Source) -> Autoencoder:
        """Draw an autoencoder for the images of `source`."""
        key_depth, key_width, key_activation = jax.random.split(key, 3)
        widths = layer_widths(key_depth, key_width, self.depth, self.width)
        return Autoencoder(widths, choice(key_activation, self.activations), half_loss(source))
