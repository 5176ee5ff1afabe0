"""Image classification by a vision transformer (Dosovitskiy et al., arXiv 2010.11929), averaging its tokens."""

import math
from dataclasses import dataclass

import haiku as hk
import jax
from jaxtyping import Array, Float, Key

from tasks.families.attention import self_attention
from tasks.families.layers import cross_entropy, draw_patch, layer_norm, linear, tiles
from tasks.ranges import log_uniform_int, power_of_two
from tasks.sources import Source


@dataclass(frozen=True)
class ViT:
    """A transformer over patches that classifies images (B, H, W, C) by softmax cross entropy in nats.

      x ← linear(patches) + positions            (B, T, D), T = H W / patch²
      x ← x + attention(norm(x)),  x ← x + MLP(norm(x))        `depth` times
      logits = linear(mean over T of norm(x))

    with layer norm, biases everywhere, and one hidden layer of `expansion` D units and GELU in each MLP.

    Attributes:
      patch: height and width of a patch; divides those of the images.
      width: D.
      depth: number of blocks.
      heads: of attention; divides D.
      expansion: of the perceptrons.
      classes: number of labels.
    """

    patch: int
    width: int
    depth: int
    heads: int
    expansion: int
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
        """D, and the number of blocks."""
        return {"width": self.width, "depth": self.depth}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"image": (B, H, W, C), "label": (B,)}; InputError for images that patches don't cut evenly."""
        del training
        x = linear(tiles(batch["image"], self.patch), self.width)
        init = hk.initializers.TruncatedNormal(1 / math.sqrt(x.shape[1]))
        x = x + hk.get_parameter("positions", x.shape[1:], init=init)[None]
        for _ in range(self.depth):
            x = x + self_attention(layer_norm(x), self.heads)
            hidden = jax.nn.gelu(linear(layer_norm(x), self.expansion * self.width))
            x = x + linear(hidden, self.width)
        return cross_entropy(linear(layer_norm(x).mean(1), self.classes), batch["label"])


@dataclass(frozen=True)
class ViTs:
    """Vision transformers of random shape.

    Attributes:
      width: D, log-uniform among the multiples of the number of heads.
      depth: number of blocks, log-uniform.
      heads: powers of two, equally likely.
      expansion: of the perceptrons, powers of two, equally likely.
      grid: patches along the height of an image, powers of two, equally likely.
    """

    width: tuple[int, int] = (8, 32)
    depth: tuple[int, int] = (1, 2)
    heads: tuple[int, int] = (1, 4)
    expansion: tuple[int, int] = (1, 4)
    grid: tuple[int, int] = (2, 4)

    def draw(self, key: Key[Array, ""], source: Source) -> ViT:
        """Draw a transformer for the images of `source`; InputError if no patch fits them."""
        key_patch, key_width, key_depth, key_heads, key_expansion = jax.random.split(key, 5)
        heads = power_of_two(key_heads, *self.heads)
        return ViT(
            patch=draw_patch(key_patch, source, self.grid),
            width=heads * log_uniform_int(key_width, -(-self.width[0] // heads), self.width[1] // heads),
            depth=log_uniform_int(key_depth, *self.depth),
            heads=heads,
            expansion=power_of_two(key_expansion, *self.expansion),
            classes=source.classes,
        )
