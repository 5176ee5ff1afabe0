"""Image classification by a stack of 3x3 convolutions.

As the tasks called Conv_* of google/learned_optimization; there only the first convolution has stride 2.
"""

import math
from dataclasses import dataclass

import haiku as hk
import jax
from jaxtyping import Array, Float, Key

from tasks.families.layers import ACTIVATIONS, NORMS, Conv, check_images, cross_entropy, image_shape, normalise
from tasks.ranges import choice, log_uniform_int
from tasks.sources import Source


@dataclass(frozen=True)
class ImageConv:
    """A convolutional network that classifies images (B, H, W, C) by softmax cross entropy in nats.

    Each layer is a convolution with bias, the activation, then the norm. The mean over positions goes through a linear
    layer that gives the logits.

    Attributes:
      channels: of the convolutions.
      strided: how many of them, from the first, have stride 2.
      norm: one of `NORMS`.
      activation: a key of `ACTIVATIONS`.
      classes: number of labels.
    """

    channels: tuple[int, ...]
    strided: int
    norm: str
    activation: str
    classes: int

    @property
    def initial_loss(self) -> float:
        """The log of the number of classes, the loss of a uniform guess."""
        return math.log(self.classes)

    @property
    def loss_cap(self) -> float:
        """1.5 of these logs."""
        return 1.5 * math.log(self.classes)

    @property
    def dimensions(self) -> dict[str, int]:
        """The most channels, and the number of convolutions."""
        return {"width": max(self.channels, default=0), "depth": len(self.channels)}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"image": (B, H, W, C), "label": (B,)}; InputError for images of another form."""
        x = batch["image"]
        check_images(x.shape)
        for i, channels in enumerate(self.channels):
            x = ACTIVATIONS[self.activation](Conv(channels, stride=2 if i < self.strided else 1)(x))
            x = normalise(self.norm, x, training)
        return cross_entropy(hk.Linear(self.classes)(x.mean((1, 2))), batch["label"])


@dataclass(frozen=True)
class ImageConvs:
    """Convolutional networks of random shape.

    Attributes:
      width: channels of each convolution, drawn one by one, log-uniform.
      depth: number of convolutions, log-uniform.
      strided: how many of them have stride 2, all equally likely; at most all of them.
      norms: of `NORMS`, equally likely.
      activations: keys of `ACTIVATIONS`, equally likely.
    """

    width: tuple[int, int] = (4, 16)
    depth: tuple[int, int] = (1, 3)
    strided: tuple[int, int] = (1, 2)
    norms: tuple[str, ...] = NORMS
    activations: tuple[str, ...] = tuple(ACTIVATIONS)

    def draw(self, key: Key[Array, ""], source: Source) -> ImageConv:
        """Draw a network for the labels of `source`; InputError if its images are not (H, W, C)."""
        image_shape(key, source)
        key_depth, key_width, key_strided, key_norm, key_activation = jax.random.split(key, 5)
        depth = log_uniform_int(key_depth, *self.depth)
        channels = tuple(log_uniform_int(jax.random.fold_in(key_width, i), *self.width) for i in range(depth))
        strided = int(jax.random.randint(key_strided, (), self.strided[0], self.strided[1] + 1))
        norm, activation = choice(key_norm, self.norms), choice(key_activation, self.activations)
        return ImageConv(channels, min(strided, depth), norm, activation, source.classes)
