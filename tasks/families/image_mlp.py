"""Image classification by a multi-layer perceptron."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from tasks.data import Dataset, sample
from tasks.errors import InputError
from tasks.ranges import choice, log_uniform, log_uniform_int, power_of_two
from tasks.task import Variables

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}

_EVALUATED = 2048  # examples of a split that `evaluate` looks at


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ImageMLP:
    """A perceptron trained to classify images by softmax cross entropy.

    Hidden layers are linear maps with biases followed by the activation; a linear layer gives the logits.
    Weights start from Haiku's default (normal of deviation 1/sqrt(fan-in), truncated at two deviations) times
    an initial scale drawn log-uniformly from `initial_scale`; biases start at zero.

    Attributes:
      data: fields "image" (N, pixels), flat, in [0, 1], and "label" (N,); the only leaves of this pytree.
      name: see `tasks.task.Task`.
      widths: of the hidden layers; () is logistic regression.
      activation: a key of `ACTIVATIONS`.
      initial_scale: (low, high).
      batch_size: B.
    """

    data: Dataset
    name: str = field(metadata={"static": True})
    widths: tuple[int, ...] = field(default=(32,), metadata={"static": True})
    activation: str = field(default="relu", metadata={"static": True})
    initial_scale: tuple[float, float] = field(default=(1.0, 1.0), metadata={"static": True})
    batch_size: int = field(default=128, metadata={"static": True})

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        if self.data.classes is None:
            raise InputError(
                f"task {self.name!r}: data set {self.data.name!r} has no class labels, expected a field label"
            )
        return self.data.classes

    @property
    def loss_cap(self) -> float:
        """1.5 ln C: half as much again as the loss of a uniform guess."""
        return 1.5 * math.log(self.classes)

    def init(self, key: Key[Array, ""]) -> Variables:
        """Weights {module: {"w": (in, out), "b": (out,)}}; the state is empty."""
        key_scale, key_weights = jax.random.split(key)
        image = self.data.train.fields["image"]
        if image.ndim != 2:
            raise InputError(
                f"task {self.name!r}: images of shape {image.shape}, expected (N, pixels): use flatten_images"
            )
        shapes = jax.eval_shape(self._network().init, key_weights, image[:1])
        fixed = self.initial_scale == (1.0, 1.0)
        scale = 1.0 if fixed else log_uniform(key_scale, *self.initial_scale)
        # One draw for all layers: Haiku's, one a layer, takes up to twice as long to run and 7 times to compile.
        sizes = [math.prod(layer["w"].shape) for layer in shapes.values()]
        draw = jax.random.truncated_normal(key_weights, -2.0, 2.0, (sum(sizes),))
        parts = jnp.split(draw, list(itertools.accumulate(sizes))[:-1])
        params = {
            module: {
                "w": part.reshape(layer["w"].shape) * (scale / math.sqrt(layer["w"].shape[0])),
                "b": jnp.zeros_like(layer["b"]),
            }
            for (module, layer), part in zip(shapes.items(), parts, strict=True)
        }
        return Variables(params, {})

    def batch(self, key: Key[Array, ""]) -> dict[str, Array]:
        """{"image": (B, pixels), "label": (B,)}."""
        return sample(self.data.train, key, self.batch_size)

    def loss(
        self, params: Any, state: Any, batch: dict[str, Array], key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Any]:
        """The mean cross entropy of the batch, in nats; nothing is random, the state passes through."""
        del key
        logits = self._network().apply(params, batch["image"]).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), state

    def evaluate(self, params: Any, state: Any, split: str) -> Float[Array, ""]:
        """The mean cross entropy of the first 2,048 examples of "train" or "valid", in nats."""
        examples = {name: array[:_EVALUATED] for name, array in self.data.split(split).fields.items()}
        return self.loss(params, state, examples, jax.random.key(0))[0]

    def _network(self) -> hk.Transformed:
        def forward(image: Array) -> Array:
            return hk.nets.MLP((*self.widths, self.classes), activation=ACTIVATIONS[self.activation])(image)

        return hk.without_apply_rng(hk.transform(forward))


@dataclass(frozen=True, eq=False)
class ImageMLPFamily:
    """Perceptrons of random shape on one data set. Ranges include both ends; a range of one value is fixed.

    Attributes:
      data: as in `ImageMLP`.
      name: see `tasks.task.TaskFamily`; the tasks are called `<name>_<widths>[_<activation>][_bs<B>]`.
      widths: of each hidden layer, drawn one by one, log-uniform.
      depth: number of hidden layers, log-uniform.
      activations: keys of `ACTIVATIONS`, equally likely.
      initial_scale: drawn by `ImageMLP.init`, log-uniform.
      batch_size: powers of two, equally likely.
    """

    data: Dataset
    name: str
    widths: tuple[int, int] = (8, 128)
    depth: tuple[int, int] = (1, 4)
    activations: tuple[str, ...] = ("relu", "tanh", "gelu", "silu")
    initial_scale: tuple[float, float] = (0.3, 3.0)
    batch_size: tuple[int, int] = (16, 256)

    def sample(self, key: Key[Array, ""]) -> ImageMLP:
        """Draw a perceptron; equal keys give equal ones."""
        key_depth, key_width, key_activation, key_batch = jax.random.split(key, 4)
        depth = log_uniform_int(key_depth, *self.depth)
        widths = tuple(log_uniform_int(jax.random.fold_in(key_width, i), *self.widths) for i in range(depth))
        activation = choice(key_activation, self.activations)
        batch_size = power_of_two(key_batch, *self.batch_size)
        name = task_name(self.name, widths, activation, batch_size)
        return ImageMLP(self.data, name, widths, activation, self.initial_scale, batch_size)


def task_name(prefix: str, widths: tuple[int, ...], activation: str = "relu", batch_size: int = 128) -> str:
    """`<prefix>_<widths>`, with the activation and the batch size where they are not relu and 128."""
    name = f"{prefix}_{'x'.join(map(str, widths)) or 'linear'}".replace("-", "_")
    name += "" if activation == "relu" else f"_{activation}"
    return name + ("" if batch_size == 128 else f"_bs{batch_size}")
