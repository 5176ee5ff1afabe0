"""Self-attention, as a Haiku function."""

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def self_attention(
    x: Float[Array, "B L D"], heads: int, mask: Bool[Array, "L L"] | None = None
) -> Float[Array, "B L D"]:
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2), with biases.

        q, k, v = x W + b        in each head:  softmax(q k^T / sqrt(D / heads)) v        output layer D -> D

    Args:
      x: a batch of sequences of L vectors.
      heads: a divisor of D.
      mask: entry (i, j) whether position i may look at position j; None for all.
    """
    width = x.shape[-1] // heads
    q, k, v = jnp.moveaxis(hk.Linear(3 * x.shape[-1], name="qkv")(x).reshape(*x.shape[:2], 3, heads, width), 2, 0)
    scores = jnp.einsum("bihd,bjhd->bhij", q, k) / width**0.5
    if mask is not None:
        scores = jnp.where(mask[None, None], scores, -jnp.inf)
    out = jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores), v)
    return hk.Linear(x.shape[-1], name="attention_output")(out.reshape(x.shape))
