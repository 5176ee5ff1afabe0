"""A task made of a model and a source of batches, and families of such tasks.

A family of `tasks.families` supplies two things: a `Model`, one architecture with its loss, and a `Space`, the
distribution that architectures are drawn from.
"""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, cast, runtime_checkable

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.errors import InputError
from tasks.ranges import log_uniform, power_of_two
from tasks.sources import Source
from tasks.task import Batch, Variables


@runtime_checkable
class Model(Protocol):
    """An architecture with its loss: a frozen, hashable dataclass, static in every program."""

    @property
    def initial_loss(self) -> float:
        """The loss to expect before training, at an initial scale of one, to about a quarter."""
        ...

    @property
    def loss_cap(self) -> float:
        """See `tasks.task.Task`."""
        ...

    @property
    def dimensions(self) -> Mapping[str, int]:
        """Those of width, depth and length (of a sequence) that it has: what suites call larger."""
        ...

    def __call__(self, batch: Batch, training: bool) -> Float[Array, ""]:
        """The mean loss of a batch; a Haiku function, which may keep state and draw random numbers."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ModelTask:
    """A model trained on batches of a source.

    Arrays of two or more axes start from a normal distribution truncated at two deviations, of deviation
    1/sqrt(fan-in), the product of all axes but the last; those called "embeddings" of deviation one. That is
    Haiku's default. They are multiplied by an initial scale, drawn log-uniformly. All other arrays start as
    the model says: biases at zero, gains at one.

    Attributes:
      source: of batches; its arrays are the leaves of this pytree.
      model: what is trained, and its loss.
      name: see `tasks.task.Task`.
      initial_scale: (low, high).
      batch_size: B.
    """

    source: Source
    model: Model = field(metadata={"static": True})
    name: str = field(metadata={"static": True})
    initial_scale: tuple[float, float] = field(default=(1.0, 1.0), metadata={"static": True})
    batch_size: int = field(default=128, metadata={"static": True})

    @property
    def loss_cap(self) -> float:
        """See `tasks.task.Task`."""
        return self.model.loss_cap

    def init(self, key: Key[Array, ""]) -> Variables:
        """Weights {module: {name: array}} and the model's state."""
        key_scale, key_weights = jax.random.split(key)
        key_state = jax.random.fold_in(key_weights, 0)
        example = jax.eval_shape(lambda k: self.source.batch(k, 1), key)
        example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
        params, state = self._network().init(key_state, example, True)
        scale = 1.0 if self.initial_scale == (1.0, 1.0) else log_uniform(key_scale, *self.initial_scale)
        # One draw for all arrays: Haiku's, one an array, takes up to twice as long to run and 7 times to compile.
        # What Haiku drew is dropped, and so never computed in a compiled program.
        weights = [(m, n, w) for m, layer in params.items() for n, w in layer.items() if w.ndim >= 2]
        ends = list(itertools.accumulate((w.size for _, _, w in weights), initial=0))
        draw = jax.random.truncated_normal(key_weights, -2.0, 2.0, (ends[-1],), jnp.float32)
        parts = [draw[start:end] for start, end in itertools.pairwise(ends)]
        params = {module: dict(layer) for module, layer in params.items()}
        for (module, name, w), part in zip(weights, parts, strict=True):
            deviation = 1.0 if name == "embeddings" else 1 / math.sqrt(math.prod(w.shape[:-1]))
            params[module][name] = part.reshape(w.shape) * jnp.float32(scale * deviation)
        return Variables(params, state)

    def batch(self, key: Key[Array, ""]) -> Batch:
        """See `Source.batch`."""
        return self.source.batch(key, self.batch_size)

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """The model's mean loss of the batch, and its next state."""
        loss, state = self._network().apply(params, state, key, batch, True)
        return loss.astype(jnp.float32), state

    def evaluate(self, params: Any, state: Any, split: str) -> Float[Array, ""]:
        """The model's mean loss of `Source.held`, in evaluation mode; what it draws comes from a fixed key."""
        held = self.source.held(split)
        return self._network().apply(params, state, jax.random.key(0), held, False)[0].astype(jnp.float32)

    def _network(self) -> hk.TransformedWithState:
        def loss(batch: Batch, training: bool) -> Float[Array, ""]:
            try:
                return self.model(batch, training)
            except KeyError as error:
                if not isinstance(batch, Mapping) or error.args[0] in batch:
                    raise
                raise InputError(
                    f"task {self.name!r}: data {self.source.name!r} have fields {', '.join(sorted(batch))}, "
                    f"expected a field {error.args[0]}: choose other data or another family"
                ) from error

        return hk.transform_with_state(loss)


@runtime_checkable
class Space(Protocol):
    """A distribution over architectures: a frozen dataclass, its ranges (low, high) with both ends included.

    Ranges called width, depth and length are those of `Model.dimensions`.
    """

    def draw(self, key: Key[Array, ""], source: Source) -> Model:
        """An architecture that fits the data of `source`; on the host, equal keys give equal ones."""
        ...


@dataclass(frozen=True, eq=False)
class ModelFamily:
    """Models of a space on one of several sources.

    Attributes:
      name: the prefix of its tasks' names.
      sources: equally likely.
      space: of architectures.
      initial_scale: drawn by `ModelTask.init`, log-uniform.
      batch_size: powers of two, equally likely.
    """

    name: str
    sources: tuple[Source, ...]
    space: Space
    initial_scale: tuple[float, float] = (0.3, 3.0)
    batch_size: tuple[int, int] = (16, 256)

    def sample(self, key: Key[Array, ""]) -> ModelTask:
        """Draw a task, named after its data, architecture and batch size."""
        key_source, key_model, key_batch = jax.random.split(key, 3)
        source = self.sources[int(jax.random.randint(key_source, (), 0, len(self.sources)))]
        model = self.space.draw(key_model, source)
        batch_size = power_of_two(key_batch, *self.batch_size)
        name = f"{self.name}_{source.name}_{describe(model)}_bs{batch_size}"
        return ModelTask(source, model, re.sub(r"[^A-Za-z0-9_.]+", "_", name), self.initial_scale, batch_size)


def describe(model: Model) -> str:
    """The settings of an architecture as part of a name: `16x32_relu_layer`; equal only for equal models."""

    def show(value: Any) -> str:
        if isinstance(value, tuple):
            return "x".join(map(show, value)) or "none"
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return "_".join(show(getattr(model, f.name)) for f in fields(cast(Any, model)))
