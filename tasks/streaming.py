"""Data sets too large for the device: a buffer of examples at a time, read ahead by Grain, at a position that is saved.

Batches stay a pure function of a key and of arrays on the device: a task whose data are a buffer is an ordinary task.
Between outer steps the buffer is exchanged for the next one, of equal shapes, so that nothing compiles again:

    reservoir = stream("lm1b", seed=config.seed)
    dataset = reservoir.dataset            # Windows(dataset, length), Examples(dataset)
    ...
    dataset = reservoir.advance()          # every so many outer steps; returns at once if the next buffer is ready
    saved = reservoir.position()           # into the checkpoint: a dictionary for JSON
    dataset = stream("lm1b", seed=config.seed).restore(saved)   # the very buffer that was in use

The stream is the training split in an order drawn from the seed, then again in another one, without end; a buffer is
its next M examples. Every process that opens it sees the same buffers. For a set that fits, `tasks.data.load` is the
better choice: it sees all examples at once.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tasks import data, storage
from tasks.data import Dataset
from tasks.embedded import split_rows
from tasks.errors import InputError

BUFFER = 256 * 2**20
"""Bytes that a buffer takes on the device, unless told otherwise."""

_HELD, _HELD_TOKENS = 4096, 65_536  # examples, or about as many tokens, of the validation split that are read
_TEXT_MARGIN = 1.25  # more text is read than a buffer takes, because lengths vary
_DOCUMENTS = 16  # least number of texts of mean length in a buffer, or what is cut off would matter
_EPOCHS = 2**31  # without end, in numbers that Grain can count
_FORMAT = 1


@dataclass
class Reservoir:
    """A position in a stream of buffers; made by `stream`, changed by `advance` and `restore`.

    Attributes:
      dataset: the buffer in use as the training split, beside a part of the validation split that stays the same.
    """

    dataset: Dataset
    _identity: Mapping[str, Any] = field(repr=False)
    _buffers: Any = field(repr=False)  # Grain's iterator
    _start: Any = field(repr=False)  # its state before the buffer in use was drawn

    def advance(self) -> Dataset:
        """Go on to the next buffer, and return the data set with it; waits if it has not been read yet.

        Raises:
          DataUnavailable: where the files have become unreadable.
        """
        self._start = self._buffers.get_state()
        self.dataset = replace(self.dataset, train=data.on_device(next(self._buffers)))
        return self.dataset

    def position(self) -> dict[str, Any]:
        """What `restore` needs to come back to the buffer in use: a small dictionary that JSON can hold."""
        return {**self._identity, "grain": self._start}

    def restore(self, position: Mapping[str, Any]) -> Dataset:
        """Go to a saved position: the data set that was in use there, bit for bit.

        Raises:
          InputError: where the position is one of another stream: other data, rows, seed or format.
        """
        for name, value in self._identity.items():
            if position.get(name) != value:
                raise InputError(
                    f"position of a data stream: {name} is {position.get(name)!r}, expected {value!r}: "
                    f"resume with the settings and the data that the run was started with"
                )
        self._buffers.set_state(position["grain"])
        return self.advance()


def stream(
    name: str, rows: int | None = None, seed: int = 0, data_dir: str | os.PathLike[str] | None = None
) -> Reservoir:
    """Open a stream of buffers of a data set, at its first one.

    Validation is on the first 4,096 examples, or about 65,536 tokens, of the set's validation split, else of its test
    split, else of the rows of the training split that `tasks.embedded.split_rows` holds out.

    Args:
      name: as for `tasks.data.load`, which also says what becomes of the fields.
      rows: M, the examples in a buffer, or the tokens if the set is of texts; at most those of the training split.
        Default: what takes 256 MiB, and as much again twice on the host. Of texts about a quarter more is read than
        a buffer takes, and the rest is passed over until the next epoch.
      seed: of the order; equal seeds, equal streams.
      data_dir: as for `tasks.data.load`.

    Raises:
      InputError: for rows or a seed out of range, and as `tasks.data.load` does.
      DataUnavailable: as `tasks.data.load` does.
    """
    import grain  # takes seconds, which who streams nothing need not wait

    stored = data.find_splits(name, data_dir)
    if "token" in stored.features:
        raise InputError(f"data set {name!r} holds tokens, which are not streamed: load it, or store it as text")
    if not 0 <= seed < 2**32 or (rows is not None and rows < 1):
        raise InputError(f"stream of {name!r}: rows {rows}, seed {seed}, expected at least 1, and 0 to 2**32 - 1")
    count, split = stored.sizes["train"], data.held_out(stored)
    examples = storage.source(stored, "train")
    if split is None:
        if count < 2:
            raise InputError(f"data set {name!r}: one example, expected two at least, or a validation split")
        order = split_rows(count)
        held, held_rows, order = examples, order["valid"], order["train"]
    else:
        held, held_rows, order = storage.source(stored, split), np.arange(stored.sizes[split]), np.arange(count)
    per_example = _text_length(stored, examples) if stored.is_text else stored.values("train") / count
    rows = max(1, int(BUFFER / 4 / (1 if stored.is_text else per_example))) if rows is None else rows
    rows = min(rows, int(len(order) * (per_example if stored.is_text else 1)))
    if stored.is_text and rows < _DOCUMENTS * per_example:
        raise InputError(
            f"stream of {name!r}: {rows} tokens hold less than {_DOCUMENTS} texts of {per_example:.0f} bytes, as their "
            f"mean is: choose more rows, or load the set"
        )
    read = math.ceil(_TEXT_MARGIN * rows / per_example) if stored.is_text else rows

    def buffer(indices: np.ndarray) -> dict[str, np.ndarray]:
        arrays = data.convert(stored, storage.read_rows(stored, examples, order[indices]))
        # A text is cut, or begun again, to the length that all buffers have.
        return {"token": np.resize(arrays["token"], rows)} if stored.is_text else arrays

    indices = grain.MapDataset.range(len(order)).seed(seed).shuffle().repeat(_EPOCHS).batch(read)
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    buffers: Iterator[Any] = iter(indices.map(buffer).to_iter_dataset(ahead))
    identity = {"format": _FORMAT, "data": name, "examples": count, "rows": rows, "seed": seed}
    classes = data.TEXT_VALUES if stored.is_text else stored.classes
    held_count = max(1, math.ceil(_HELD_TOKENS / per_example)) if stored.is_text else _HELD
    valid = data.on_device(data.convert(stored, storage.read_rows(stored, held, held_rows[:held_count])))
    reservoir = Reservoir(Dataset(valid, valid, name, classes), identity, buffers, None)
    reservoir.advance()
    return reservoir


def _text_length(stored: storage.Stored, examples: Any) -> float:
    """Mean bytes of a text and the line feed after it, of texts from all over the set."""
    (texts,) = storage.read_rows(stored, examples, np.linspace(0, len(examples) - 1, 256).astype(int)).values()
    return 1 + float(np.mean([len(text) for text in texts]))
