"""Image classification by an MLP-Mixer (Tolstikhin et al., arXiv 2105.01601)."""

import math
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Key

from tasks.families.layers import cross_entropy, draw_patch, layer_norm, linear, tiles
from tasks.ranges import log_uniform_int
from tasks.sources import Source


@dataclass(frozen=True)
class MLPMixer:
    """Perceptrons across and within patches that classify images (B, H, W, C) by softmax cross entropy in nats.

      x ← linear(patches)                                      (B, T, D), T = H W / patch²
      x ← x + MLP(norm(x)ᵀ)ᵀ,  x ← x + MLP(norm(x))            `depth` times: across the T patches, then within each
      logits = linear(mean over T of norm(x))

    with layer norm, biases everywhere, and one hidden layer with GELU in each MLP.

    Attributes:
      patch: height and width of a patch; divides those of the images.
      width: D.
      depth: number of blocks.
      token_width: hidden units of the perceptrons across patches.
      channel_width: hidden units of those within.
      classes: number of labels.
    """

    patch: int
    width: int
    depth: int
    token_width: int
    channel_width: int
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
        for _ in range(self.depth):
            x = x + _mlp(layer_norm(x).swapaxes(1, 2), self.token_width).swapaxes(1, 2)
            x = x + _mlp(layer_norm(x), self.channel_width)
        return cross_entropy(linear(layer_norm(x).mean(1), self.classes), batch["label"])


def _mlp(x: Array, hidden: int) -> Array:
    return linear(jax.nn.gelu(linear(x, hidden)), x.shape[-1])


@dataclass(frozen=True)
class MLPMixers:
    """Mixers of random shape.

    Attributes:
      width: D, log-uniform.
      depth: number of blocks, log-uniform.
      hidden: units of both kinds of perceptrons, drawn one by one, log-uniform.
      grid: patches along the height of an image, powers of two, equally likely.
    """

    width: tuple[int, int] = (8, 32)
    depth: tuple[int, int] = (1, 2)
    hidden: tuple[int, int] = (8, 64)
    grid: tuple[int, int] = (2, 4)

    def draw(self, key: Key[Array, ""], source: Source) -> MLPMixer:
        """Draw a mixer for the images of `source`; InputError if no patch fits them."""
        key_patch, key_width, key_depth, key_token, key_channel = jax.random.split(key, 5)
        return MLPMixer(
            patch=draw_patch(key_patch, source, self.grid),
            width=log_uniform_int(key_width, *self.width),
            depth=log_uniform_int(key_depth, *self.depth),
            token_width=log_uniform_int(key_token, *self.hidden),
            channel_width=log_uniform_int(key_channel, *self.hidden),
            classes=source.classes,
        )
