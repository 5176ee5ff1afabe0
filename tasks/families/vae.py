"""A variational autoencoder of images (Kingma and Welling, arXiv 1312.6114), both halves perceptrons."""

import math
from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from tasks.families.layers import ACTIVATIONS
from tasks.ranges import choice, layer_widths, log_uniform_int
from tasks.sources import Source


@dataclass(frozen=True)
class VAE:
    """A variational autoencoder of images with P pixels in [0, 1], Z latents; loss in nats per pixel.

      μ, ln σ = encoder(x),   z = μ + σ ε,   ε ~ N(0, I)
      loss    = ( Σ_P H(x, sigmoid(decoder(z))) + Σ_Z KL(N(μ, σ²) || N(0, 1)) ) / P

    with the binary cross entropy H(x, p) = -x ln p - (1 - x) ln(1 - p) and one ε for each image.

    Attributes:
      widths: of the hidden layers of the encoder; the decoder has them in reverse.
      latents: Z.
      activation: a key of `ACTIVATIONS`.
    """

    widths: tuple[int, ...]
    latents: int
    activation: str

    @property
    def initial_loss(self) -> float:
        """ln 2, that of a decoder that gives a half whatever the image, at the prior."""
        return math.log(2)

    @property
    def loss_cap(self) -> float:
        """1.5 ln 2."""
        return 1.5 * math.log(2)

    @property
    def dimensions(self) -> dict[str, int]:
        """The widest hidden layer, and the number of those of the encoder."""
        return {"width": max(self.widths, default=0), "depth": len(self.widths)}

    def __call__(self, batch: dict[str, Array], training: bool) -> Float[Array, ""]:
        """Of {"image": (B, ...)}; ε comes from Haiku's next key, in evaluation too."""
        del training
        activation = ACTIVATIONS[self.activation]
        x = hk.Flatten()(batch["image"])
        encoded = hk.nets.MLP((*self.widths, 2 * self.latents), activation=activation, name="encoder")(x)
        μ, ln_σ = jnp.split(encoded.astype(jnp.float32), 2, axis=-1)
        z = μ + jnp.exp(ln_σ) * jax.random.normal(hk.next_rng_key(), μ.shape)
        decoder = hk.nets.MLP((*reversed(self.widths), x.shape[-1]), activation=activation, name="decoder")
        logits = decoder(z.astype(x.dtype)).astype(jnp.float32)
        H = optax.sigmoid_binary_cross_entropy(logits, x.astype(jnp.float32)).sum(-1)
        return (H + gaussian_kl(μ, ln_σ)).mean() / x.shape[-1]


def gaussian_kl(μ: Float[Array, "B Z"], ln_σ: Float[Array, "B Z"]) -> Float[Array, " B"]:
    """KL(N(μ, σ²) || N(0, 1)) = (μ² + σ² - 1) / 2 - ln σ, summed over Z."""
    return (0.5 * (jnp.square(μ) + jnp.exp(2 * ln_σ) - 1) - ln_σ).sum(-1)


@dataclass(frozen=True)
class VAEs:
    """Variational autoencoders of random shape.

    Attributes:
      width: of each hidden layer, drawn one by one, log-uniform.
      depth: number of hidden layers of the encoder, log-uniform.
      latents: log-uniform.
      activations: keys of `ACTIVATIONS`, equally likely.
    """

    width: tuple[int, int] = (8, 64)
    depth: tuple[int, int] = (1, 2)
    latents: tuple[int, int] = (2, 16)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)

    def draw(self, key: Key[Array, ""], source: Source) -> VAE:
        """Draw an architecture; it fits images of any size."""
        del source
        key_depth, key_width, key_latents, key_activation = jax.random.split(key, 4)
        widths = layer_widths(key_depth, key_width, self.depth, self.width)
        return VAE(widths, log_uniform_int(key_latents, *self.latents), choice(key_activation, self.activations))
