"""Image classification by a residual network with pre-activation (He et al., arXiv 1603.05027, "v2")."""

import math
from dataclasses import dataclass

import haiku as hk
import jax
from jaxtyping import Array, Float, Key

from tasks.families.layers import ACTIVATIONS, Conv, check_images, cross_entropy, image_shape, normalise
from tasks.ranges import choice, log_uniform_int
from tasks.sources import Source


@dataclass(frozen=True)
class ResNet:
    """A residual network that classifies images (B, H, W, C) by softmax cross entropy in nats.

    With f(x) = activation(norm(x)), a block is

      x ← shortcut + conv₃ₓ₃(f(conv₃ₓ₃(f(x))))

    where the shortcut is x, or conv₁ₓ₁(f(x)) where the shape changes. The first block of every group but the first
    has stride 2. A 3x3 convolution comes before the first block; f, the mean over positions and a linear layer come
    after the last. In place of the former, networks published for larger images have a wider one and a max pool.

    Attributes:
      channels: of each group.
      blocks: of each group, at least one.
      stem_stride: of the convolution before the first block.
      norm: "batch" or "layer", see `layers.normalise`.
      activation: a key of `ACTIVATIONS`.
      classes: number of labels.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    stem_stride: int
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
        """The most channels, and the number of blocks."""
        return {"width": max(self.channels), "depth": sum(self.blocks)}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"image": (B, H, W, C), "label": (B,)}; InputError for images of another form."""

        def f(x: Array) -> Array:
            return ACTIVATIONS[self.activation](normalise(self.norm, x, training))

        check_images(batch["image"].shape)
        x = Conv(self.channels[0], stride=self.stem_stride)(batch["image"])
        for group, (channels, blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for block in range(blocks):
                stride = 2 if group > 0 and block == 0 else 1
                h = f(x)
                if stride > 1 or channels != x.shape[-1]:
                    x = Conv(channels, kernel=1, stride=stride)(h)
                h = Conv(channels, stride=stride)(h)
                x = x + Conv(channels)(f(h))
        return cross_entropy(hk.Linear(self.classes)(f(x).mean((1, 2))), batch["label"])


@dataclass(frozen=True)
class ResNets:
    """Residual networks of random shape.

    Attributes:
      width: channels of the last group, log-uniform; the others have as many, or half as many as the next.
      depth: number of blocks, log-uniform, in up to `groups` groups as even as can be.
      groups: the most groups.
      norms: of "batch" and "layer", equally likely.
      activations: keys of `ACTIVATIONS`, equally likely.
    """

    width: tuple[int, int] = (4, 16)
    depth: tuple[int, int] = (1, 3)
    groups: int = 3
    norms: tuple[str, ...] = ("batch", "layer")
    activations: tuple[str, ...] = ("relu", "gelu", "silu")

    def draw(self, key: Key[Array, ""], source: Source) -> ResNet:
        """Draw a network for the labels of `source`; images over 8 high or wide go through a stem of stride 2."""
        height, width, _ = image_shape(key, source)
        key_depth, key_groups, key_width, key_growth, key_norm, key_activation = jax.random.split(key, 6)
        depth = log_uniform_int(key_depth, *self.depth)
        groups = int(jax.random.randint(key_groups, (), 1, min(self.groups, depth) + 1))
        widest = log_uniform_int(key_width, *self.width)
        growth = int(jax.random.randint(key_growth, (), 1, 3))
        return ResNet(
            channels=tuple(max(1, widest // growth ** (groups - 1 - i)) for i in range(groups)),
            blocks=tuple(depth // groups + (i < depth % groups) for i in range(groups)),
            stem_stride=2 if max(height, width) > 8 else 1,
            norm=choice(key_norm, self.norms),
            activation=choice(key_activation, self.activations),
            classes=source.classes,
        )
