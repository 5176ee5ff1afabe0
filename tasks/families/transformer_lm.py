"""Language modelling by a decoder-only transformer."""

import math
from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tasks.families.attention import self_attention
from tasks.families.layers import cross_entropy, layer_norm
from tasks.families.next_token import draw_length, window
from tasks.ranges import log_uniform_int, power_of_two
from tasks.sources import Source


@dataclass(frozen=True)
class TransformerLM:
    """A transformer that predicts the next token, by softmax cross entropy in nats per token.

    As GPT-2 (Radford et al. 2019), but for the weights of the last linear layer, which are its own: embeddings of
    tokens and positions, layer norm before each part of a block and before the logits, causal attention, and a
    perceptron D -> 4 D -> D with GELU.

        x_0 = E[token] + P      x' = x + attention(norm(x))      x = x' + perceptron(norm(x'))

    Attributes:
      width: D.
      heads: a divisor of D.
      depth: number of blocks.
      length: L, the tokens of each window that it reads.
      classes: V.
    """

    width: int
    heads: int
    depth: int
    length: int
    classes: int

    @property
    def initial_loss(self) -> float:
        """ln V + 0.39 (1 - 1/V): normalised vectors make logits of variance 0.77, that of the truncated normal."""
        return math.log(self.classes) + 0.39 * (1 - 1 / self.classes)

    @property
    def loss_cap(self) -> float:
        """1.5 ln V."""
        return 1.5 * math.log(self.classes)

    @property
    def dimensions(self) -> dict[str, int]:
        """The width of the residual stream, the number of blocks and the length of a window."""
        return {"width": self.width, "depth": self.depth, "length": self.length}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"input": (B, M), "target": (B, M)}, M >= L."""
        del training
        tokens, target = window(batch, self.length)
        position = hk.Embed(self.length, self.width, name="position")(jnp.arange(self.length))
        x = hk.Embed(self.classes, self.width, name="token")(tokens) + position[None]
        causal = jnp.asarray(np.tri(self.length, dtype=bool))
        for _ in range(self.depth):
            x += self_attention(layer_norm(x), self.heads, causal)
            x += hk.nets.MLP((4 * self.width, self.width), activation=jax.nn.gelu)(layer_norm(x))
        logits = hk.Linear(self.classes, name="logits")(layer_norm(x))
        return cross_entropy(logits.reshape(-1, self.classes), target.reshape(-1))


@dataclass(frozen=True)
class TransformerLMs:
    """Transformers of random size.

    Attributes:
      width: log-uniform among the multiples of the number of heads.
      depth: log-uniform.
      length: log-uniform; windows of the source must not be shorter.
      heads: powers of two, equally likely; each must have a multiple in `width`.
    """

    width: tuple[int, int] = (16, 32)
    depth: tuple[int, int] = (1, 2)
    length: tuple[int, int] = (8, 32)
    heads: tuple[int, int] = (1, 4)

    def draw(self, key: Key[Array, ""], source: Source) -> TransformerLM:
        """Draw a transformer for the tokens of `source`."""
        key_width, key_heads, key_depth, key_length = jax.random.split(key, 4)
        heads = power_of_two(key_heads, *self.heads)
        width = heads * log_uniform_int(key_width, -(-self.width[0] // heads), self.width[1] // heads)
        length = draw_length(key_length, source, *self.length)
        return TransformerLM(width, heads, log_uniform_int(key_depth, *self.depth), length, source.classes)
