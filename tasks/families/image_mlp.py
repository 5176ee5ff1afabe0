"""Image classification by a multi-layer perceptron."""

import math
from dataclasses import dataclass

import haiku as hk
import jax
from jaxtyping import Array, Float, Key

from tasks.families.layers import ACTIVATIONS, cross_entropy
from tasks.ranges import choice, layer_widths
from tasks.sources import Source


@dataclass(frozen=True)
class ImageMLP:
    """A perceptron that classifies images, flattened, by softmax cross entropy in nats.

    Hidden layers are linear maps with biases followed by the activation; a linear layer gives the logits.

    Attributes:
      widths: of the hidden layers; () is logistic regression.
      activation: a key of `ACTIVATIONS`.
      classes: C.
    """

    widths: tuple[int, ...]
    activation: str
    classes: int

    @property
    def initial_loss(self) -> float:
        """ln C, the loss of a uniform guess."""
        return math.log(self.classes)

    @property
    def loss_cap(self) -> float:
        """1.5 ln C."""
        return 1.5 * math.log(self.classes)

    @property
    def dimensions(self) -> dict[str, int]:
        """The widest hidden layer, and their number."""
        return {"width": max(self.widths, default=0), "depth": len(self.widths)}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"image": (B, ...), "label": (B,)}."""
        del training
        layers = (*self.widths, self.classes)
        logits = hk.nets.MLP(layers, activation=ACTIVATIONS[self.activation])(hk.Flatten()(batch["image"]))
        return cross_entropy(logits, batch["label"])


@dataclass(frozen=True)
class ImageMLPs:
    """Perceptrons of random shape.

    Attributes:
      width: of each hidden layer, drawn one by one, log-uniform.
      depth: number of hidden layers, log-uniform.
      activations: keys of `ACTIVATIONS`, equally likely.
    """

    width: tuple[int, int] = (8, 128)
    depth: tuple[int, int] = (1, 4)
    activations: tuple[str, ...] = ("relu", "tanh", "gelu", "silu")

    def draw(self, key: Key[Array, ""], source: Source) -> ImageMLP:
        """Draw a perceptron for the labels of `source`."""
        key_depth, key_width, key_activation = jax.random.split(key, 3)
        widths = layer_widths(key_depth, key_width, self.depth, self.width)
        return ImageMLP(widths, choice(key_activation, self.activations), source.classes)
