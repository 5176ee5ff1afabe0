"""Where the batches of a task come from: examples drawn by row, or windows of a sequence."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from tasks.data import Dataset, sample
from tasks.errors import InputError
from tasks.task import Batch

HELD = 2048
"""Examples of a split that an evaluation looks at."""
HELD_TOKENS = 8192
"""Tokens of a split that an evaluation of a language model looks at."""


@runtime_checkable
class Source(Protocol):
    """A stream of batches: a pytree whose arrays are leaves, so that no program holds them as constants."""

    @property
    def name(self) -> str:
        """The name of the data; static."""
        ...

    if TYPE_CHECKING:  # isinstance would evaluate it, and it may raise

        @property
        def classes(self) -> int:
            """Number of values of a label or token; InputError where the data have neither."""
            ...

    def batch(self, key: Key[Array, ""], batch_size: int) -> Batch:
        """B examples of the training split, drawn with replacement."""
        ...

    def held(self, split: str) -> Batch:
        """The examples of "train" or "valid" that evaluations look at; always the same."""
        ...


def field_shape(key: Key[Array, ""], source: Source, name: str) -> tuple[int, ...]:
    """Shape of a field in a batch of one; InputError if the source has no such field."""
    batch = jax.eval_shape(lambda k: source.batch(k, 1), key)
    if name not in batch:
        raise InputError(f"data set {source.name!r} has {', '.join(batch)}, expected a field {name!r}")
    return batch[name].shape


def _classes(data: Dataset) -> int:
    if data.classes is None:
        raise InputError(f"data set {data.name!r} has no classes, expected a field label or token of integers")
    return data.classes


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Examples:
    """Independent examples: a batch is {field: (B, ...)}; an evaluation sees the first 2,048 of a split."""

    data: Dataset

    @property
    def name(self) -> str:
        """See `Source`."""
        return self.data.name

    @property
    def classes(self) -> int:
        """See `Source`."""
        return _classes(self.data)

    def batch(self, key: Key[Array, ""], batch_size: int) -> dict[str, Array]:
        """See `Source`."""
        return sample(self.data.train, key, batch_size)

    def held(self, split: str) -> dict[str, Array]:
        """See `Source`."""
        return {name: array[:HELD] for name, array in self.data.split(split).fields.items()}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of L tokens of one long sequence, each with the window one token later as its target.

    A batch is {"input": (B, L), "target": (B, L)}, int32, from starts drawn uniformly. An evaluation sees the
    first windows of a split that don't overlap, 8,192 tokens in all.

    Attributes:
      data: field "token" (N,), N > L in both splits.
      length: L.
    """

    data: Dataset
    length: int = field(metadata={"static": True})

    @property
    def name(self) -> str:
        """See `Source`."""
        return self.data.name

    @property
    def classes(self) -> int:
        """The number of tokens."""
        return _classes(self.data)

    def batch(self, key: Key[Array, ""], batch_size: int) -> dict[str, Int[Array, "B L"]]:
        """See `Source`."""
        starts = jax.random.randint(key, (batch_size,), 0, self._tokens("train").shape[0] - self.length)
        return self._cut("train", starts)

    def held(self, split: str) -> dict[str, Int[Array, "B L"]]:
        """See `Source`."""
        count = min(HELD_TOKENS, self._tokens(split).shape[0] - 1) // self.length
        return self._cut(split, self.length * jnp.arange(count))

    def _tokens(self, split: str) -> Array:
        fields = self.data.split(split).fields
        if "token" not in fields:
            raise InputError(f"data set {self.name!r} has fields {', '.join(fields)}, expected a field token")
        if fields["token"].shape[0] <= self.length:
            raise InputError(f"data set {self.name!r}: {fields['token'].shape[0]} tokens, expected over {self.length}")
        return fields["token"]

    def _cut(self, split: str, starts: Int[Array, " B"]) -> dict[str, Int[Array, "B L"]]:
        rows = starts[:, None] + np.arange(self.length + 1)[None]
        window = self._tokens(split).at[rows].get(mode="promise_in_bounds")
        return {"input": window[:, :-1], "target": window[:, 1:]}
