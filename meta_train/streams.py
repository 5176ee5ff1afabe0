"""Data sets too large for the device, exchanged buffer by buffer between outer steps; see `tasks.streaming`.

Which buffer is in use is a function of the outer step. So that a resumed run need not read all that went before, the
position of every stream is kept beside the checkpoint of the same step.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import jax

from meta_train.errors import RunFailed
from tasks.data import Dataset, Split
from tasks.streaming import Reservoir

Tree = TypeVar("Tree")

EVERY = 50
"""Outer steps that a buffer is in use."""


class Streams:
    """The streams of a run, and the file of their positions."""

    def __init__(self, reservoirs: Sequence[Reservoir], folder: Path) -> None:
        self._reservoirs, self._path = tuple(reservoirs), folder / "streams.json"

    def advance(self, problems: Tree, step: int) -> Tree:
        """The problems for the outer step after `step`; with the next buffers if it is time."""
        if step % EVERY or not self._reservoirs:
            return problems
        return exchange(problems, [reservoir.advance() for reservoir in self._reservoirs])

    def save(self, step: int, keep: int = 8) -> None:
        """Write the positions of `step`, in one atomic step, before its checkpoint; those of the few before it stay.

        Those of later steps are of a run that went on from an earlier checkpoint, and are dropped.
        """
        if self._reservoirs:
            saved = {at: positions for at, positions in self._read().items() if int(at) < step}
            saved[str(step)] = [reservoir.position() for reservoir in self._reservoirs]
            newest = dict(sorted(saved.items(), key=lambda item: int(item[0]))[-keep:])
            partial = self._path.with_suffix(".partial")
            partial.write_text(json.dumps(newest))
            partial.replace(self._path)

    def restore(self, problems: Tree, step: int) -> Tree:
        """The problems with the buffers that were in use at `step`.

        Raises:
          RunFailed: their positions are not there.
        """
        if not self._reservoirs:
            return problems
        positions = self._read().get(str(step))
        if positions is None:
            raise RunFailed(f"{self._path} does not say where the data streams were at outer step {step}: start anew")
        pairs = zip(self._reservoirs, positions, strict=True)
        return exchange(problems, [reservoir.restore(position) for reservoir, position in pairs])

    def _read(self) -> dict[str, list[dict]]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}


def exchange(tree: Tree, datasets: Sequence[Dataset]) -> Tree:
    """`tree` with the training split of every data set in it that has the name of one of `datasets` replaced by its."""
    fresh = {dataset.name: dataset.train.fields for dataset in datasets}

    def replaced(node: Any) -> Any:
        if not isinstance(node, Dataset) or node.name not in fresh:
            return node
        # A flattened image keeps the name of its data set.
        fields = {name: fresh[node.name][name].reshape(array.shape) for name, array in node.train.fields.items()}
        return replace(node, train=Split(fields))

    return jax.tree.map(replaced, tree, is_leaf=lambda node: isinstance(node, Dataset))
