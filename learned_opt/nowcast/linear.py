"""Linear layers, and those that follow each other without an activation between them, as one."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt.network import EXACT, Layer


def apply(layer: Layer, x: Float[Array, "*n I"]) -> Float[Array, "*n O"]:
    """x w + b; a bias [d, O] goes along the first axis of x."""
    *lead, outputs = layer.b.shape
    b = jnp.reshape(layer.b, (*lead, *(1,) * (x.ndim - 1 - len(lead)), outputs))
    return jnp.tensordot(x, layer.w, axes=1, precision=EXACT) + b


def then(first: Layer, second: Layer) -> Layer:
    """The first layer, on its outputs the second; their biases are [d, O] and [O], or both [O]."""
    dot = lambda x: jnp.matmul(x, second.w, precision=EXACT)
    return Layer(dot(first.w), dot(first.b) + jnp.reshape(second.b, (1,) * (first.b.ndim - 1) + (-1,)))


def by_input(layer: Layer) -> tuple[Layer, Layer]:
    """A layer on [a; b] as one on each; its bias goes with a."""
    a, b = jnp.split(layer.w, 2)
    return Layer(a, layer.b), Layer(b, jnp.zeros_like(layer.b))


def by_output(layer: Layer) -> tuple[Layer, Layer]:
    """A layer to [a; b] as one to each."""
    (a, b), (bias_a, bias_b) = (jnp.split(x, 2, axis=-1) for x in layer)
    return Layer(a, bias_a), Layer(b, bias_b)


def summed(layer: Layer, count: int) -> Layer:
    """The layer on the sum of so many inputs, to the sum of their outputs."""
    return Layer(layer.w, layer.b * count)
