"""Layers that the families of image models share.

Everything here is written for many copies of one model trained side by side under `jax.vmap`, each with its own
weights. XLA turns a convolution with a batch of kernels into a grouped one, which is slow on CPUs, so `Conv` gathers
patches and multiplies matrices.
"""

import math
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from tasks.errors import InputError
from tasks.sources import Source, field_shape

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
NORMS = ("none", "batch", "layer")

DECAY = 0.9
"""Of the running averages of batch norm."""
EPSILON = 1e-5
"""Added to variances."""


def cross_entropy(logits: Float[Array, "B C"], label: Int[Array, " B"]) -> Float[Array, ""]:
    """Mean softmax cross entropy in nats, computed in float32."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), label).mean()


def image_shape(key: Key[Array, ""], source: Source) -> tuple[int, int, int]:
    """(H, W, C) of the images of a source; InputError if they are not of that form."""
    shape = field_shape(key, source, "image")
    check_images(shape)
    _, height, width, channels = shape
    return height, width, channels


def check_images(shape: tuple[int, ...]) -> None:
    """InputError unless the shape is (B, H, W, C)."""
    if len(shape) != 4:
        raise InputError(f"images of shape {shape}, expected (B, H, W, C); flatten_images is for perceptrons only")


def patches(x: Float[Array, "B H W C"], kernel: int, stride: int) -> Float[Array, "B P Q K"]:
    """What each output of a convolution with "SAME" padding sees: K = kernel² C; P = ⌈H / stride⌉, Q = ⌈W / stride⌉."""
    _, height, width, _ = x.shape
    (P, rows), (Q, columns) = (_same(n, kernel, stride) for n in (height, width))
    x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
    shifts = [(i, j) for i in range(kernel) for j in range(kernel)]
    reach_P, reach_Q = (P - 1) * stride + 1, (Q - 1) * stride + 1
    return jnp.concatenate([x[:, i : i + reach_P : stride, j : j + reach_Q : stride] for i, j in shifts], -1)


def _same(size: int, kernel: int, stride: int) -> tuple[int, tuple[int, int]]:
    """The number of outputs along an axis, and the zeros before and after it; an odd one goes after."""
    outputs = -(-size // stride)
    zeros = max((outputs - 1) * stride + kernel - size, 0)
    return outputs, (zeros // 2, zeros - zeros // 2)


def tiles(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B T F"]:
    """Cut images into T = H W / size² squares of F = size² C numbers; InputError if they don't fit."""
    check_images(x.shape)
    B, H, W, C = x.shape
    if H % size or W % size:
        raise InputError(f"patches of {size}x{size}, expected a size that divides images of {H}x{W}")
    x = x.reshape(B, H // size, size, W // size, size, C)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, size * size * C)


def draw_patch(key: Key[Array, ""], source: Source, grid: tuple[int, int]) -> int:
    """A size of patches that cuts an image of `source` into a power of two of them along its height.

    Args:
      key: of the draw.
      source: of images (H, W, C); InputError if no patch divides both H and W.
      grid: (low, high), powers of two: the number of patches along the height, equally likely among those that fit.
    """
    H, W, _ = image_shape(key, source)
    counts = [2**i for i in range(grid[0].bit_length() - 1, grid[1].bit_length())]
    sizes = [H // n for n in counts if H % n == 0 and W % (H // n) == 0]
    if not sizes:
        raise InputError(f"images of {H}x{W}: no square patch divides them with {grid[0]}-{grid[1]} along the height")
    return sizes[int(jax.random.randint(key, (), 0, len(sizes)))]


def linear(x: Float[Array, "*A D"], width: int) -> Float[Array, "*A O"]:
    """`hk.Linear` of vectors along any axes: as one matrix, which is faster under vmap than a product of more axes."""
    return hk.Linear(width)(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], width)


class Conv(hk.Module):
    """A square convolution with "SAME" padding and a bias: weights "w" (kernel, kernel, C, O) and "b" (O,)."""

    def __init__(self, channels: int, kernel: int = 3, stride: int = 1, name: str | None = None):
        super().__init__(name)
        self._channels, self._kernel, self._stride = channels, kernel, stride

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B P Q O"]:
        """P and Q as in `patches`."""
        shape = (self._kernel, self._kernel, x.shape[-1], self._channels)
        w = hk.get_parameter("w", shape, init=hk.initializers.TruncatedNormal(1 / math.sqrt(math.prod(shape[:-1]))))
        b = hk.get_parameter("b", shape[-1:], init=jnp.zeros)
        seen = patches(x, self._kernel, self._stride)
        # As one matrix, for the reason that `linear` gives.
        y = seen.reshape(-1, seen.shape[-1]) @ w.reshape(-1, self._channels) + b[None]
        return y.reshape(*seen.shape[:-1], self._channels)


class BatchNorm(hk.Module):
    """Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) over all axes but the last, C channels.

    Training:    m, v = mean and biased variance of the batch;  M ← 0.9 M + 0.1 m,  V ← 0.9 V + 0.1 v
    Evaluation:  m, v = M, V
    Output:      scale (x - m) / sqrt(v + 1e-5) + offset

    Weights "scale" and "offset" (C,); state "mean" M and "variance" V (C,), float32, from zero and one, so that an
    evaluation before the first step is finite.
    """

    def __call__(self, x: Float[Array, "... C"], training: bool) -> Float[Array, "... C"]:
        """Normalise; the state changes in training only."""
        channels, axes = x.shape[-1:], tuple(range(x.ndim - 1))
        scale = hk.get_parameter("scale", channels, init=jnp.ones)
        offset = hk.get_parameter("offset", channels, init=jnp.zeros)
        M = hk.get_state("mean", channels, jnp.float32, init=jnp.zeros)
        V = hk.get_state("variance", channels, jnp.float32, init=jnp.ones)
        if training:
            m = x.mean(axes, dtype=jnp.float32)
            v = jnp.square(x - _over(m, x)).mean(axes, dtype=jnp.float32)
            hk.set_state("mean", DECAY * M + (1 - DECAY) * jax.lax.stop_gradient(m))
            hk.set_state("variance", DECAY * V + (1 - DECAY) * jax.lax.stop_gradient(v))
        else:
            m, v = M, V
        gain = scale * jax.lax.rsqrt(v + EPSILON)
        return (x * _over(gain, x) + _over(offset - m * gain, x)).astype(x.dtype)


def _over(a: Array, x: Array) -> Array:
    """A vector over channels with the axes of x."""
    return a.reshape((1,) * (x.ndim - 1) + a.shape)


def layer_norm(x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """Layer normalisation over the last axis, with weights "scale" and "offset" (C,)."""
    return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)


def normalise(norm: str, x: Float[Array, "... C"], training: bool) -> Float[Array, "... C"]:
    """Normalise by one of `NORMS`."""
    if norm == "batch":
        return BatchNorm()(x, training)
    return layer_norm(x) if norm == "layer" else x
