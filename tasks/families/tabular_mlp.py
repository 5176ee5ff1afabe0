"""Classification and regression of table rows by a multi-layer perceptron."""

import math
from dataclasses import dataclass

import haiku as hk
import jax
from jaxtyping import Array, Float, Key

from tasks.families.layers import ACTIVATIONS, cross_entropy
from tasks.ranges import choice, layer_widths
from tasks.sources import Source


@dataclass(frozen=True)
class TabularClassifier:
    """A perceptron that classifies rows of features, by softmax cross entropy in nats.

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
        """ln C, the loss of a uniform guess, and what the logits' variance adds to it."""
        return math.log(self.classes) + _output_variance(self.widths) / 2 * (1 - 1 / self.classes)

    @property
    def loss_cap(self) -> float:
        """1.5 ln C."""
        return 1.5 * math.log(self.classes)

    @property
    def dimensions(self) -> dict[str, int]:
        """The widest hidden layer, and their number."""
        return {"width": max(self.widths, default=0), "depth": len(self.widths)}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"x": (B, F) standardised, "label": (B,)}."""
        del training
        logits = hk.nets.MLP((*self.widths, self.classes), activation=ACTIVATIONS[self.activation])(batch["x"])
        return cross_entropy(logits, batch["label"])


@dataclass(frozen=True)
class TabularRegressor:
    """A perceptron that predicts standardised targets, by mean squared error: 1 is the loss of the mean.

    Attributes:
      widths: of the hidden layers; () is linear regression.
      activation: a key of `ACTIVATIONS`.
    """

    widths: tuple[int, ...]
    activation: str

    @property
    def initial_loss(self) -> float:
        """The variance of the targets, one, plus that of the network's output."""
        return 1 + _output_variance(self.widths)

    @property
    def loss_cap(self) -> float:
        """1.5 times the initial loss, as for cross entropies."""
        return 1.5 * self.initial_loss

    @property
    def dimensions(self) -> dict[str, int]:
        """The widest hidden layer, and their number."""
        return {"width": max(self.widths, default=0), "depth": len(self.widths)}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"x": (B, F), "y": (B,) or (B, Y)}, all standardised; the mean is over targets too."""
        del training
        y = batch["y"].reshape(batch["y"].shape[0], -1)
        prediction = hk.nets.MLP((*self.widths, y.shape[1]), activation=ACTIVATIONS[self.activation])(batch["x"])
        return ((prediction - y) ** 2).mean()


def _output_variance(widths: tuple[int, ...]) -> float:
    # A truncated normal has a variance of 0.77; with an activation behind it, a layer keeps about 0.4.
    return 0.77 * 0.4 ** len(widths)


@dataclass(frozen=True)
class TabularClassifiers:
    """Classifying perceptrons of random shape.

    Attributes:
      width: of each hidden layer, drawn one by one, log-uniform.
      depth: number of hidden layers, log-uniform.
      activations: keys of `ACTIVATIONS`, equally likely.
    """

    width: tuple[int, int] = (8, 64)
    depth: tuple[int, int] = (1, 3)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)

    def draw(self, key: Key[Array, ""], source: Source) -> TabularClassifier:
        """Draw a perceptron for the labels of `source`."""
        return TabularClassifier(*_draw(key, self.width, self.depth, self.activations), source.classes)


@dataclass(frozen=True)
class TabularRegressors:
    """Regressing perceptrons of random shape; see `TabularClassifiers`."""

    width: tuple[int, int] = (8, 64)
    depth: tuple[int, int] = (1, 3)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)

    def draw(self, key: Key[Array, ""], source: Source) -> TabularRegressor:
        """Draw a perceptron; it fits all sources with targets."""
        del source
        return TabularRegressor(*_draw(key, self.width, self.depth, self.activations))


def _draw(
    key: Key[Array, ""], width: tuple[int, int], depth: tuple[int, int], activations: tuple[str, ...]
) -> tuple[tuple[int, ...], str]:
    key_depth, key_width, key_activation = jax.random.split(key, 3)
    return layer_widths(key_depth, key_width, depth, width), choice(key_activation, activations)
