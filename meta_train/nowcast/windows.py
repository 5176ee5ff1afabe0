"""Training examples: windows of trajectories, five states and the forty after them.

    start, stride -> states start + stride {0, …, 4} are the history, start + stride (4 + k) the target of horizon k

Targets beyond the end of a run are masked. Signs of tensors are drawn: a tensor and its negative are as likely, which
the networks do not know by themselves. They do know permutations of neurons and affine changes of a tensor: these
change nothing in a prediction beyond its own permutation or change, so drawing them would be without effect.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from learned_opt.errors import InputError
from meta_train.nowcast.trajectories import Collection, load

Tree = dict[str, np.ndarray]
MIN_HORIZONS = 10
"""Horizons that every window has a target for, where runs are long enough."""


class Windows(NamedTuple):
    """Windows of one task, B of them."""

    history: tuple[Tree, ...]
    """c trees, arrays [B, ...]."""
    targets: Tree
    """Arrays [B, K, ...]."""
    mask: Bool[np.ndarray, "B K"]
    """Where there is a target."""


class Shape(NamedTuple):
    """What windows look like."""

    states: int
    """Of the history, c."""
    horizons: int
    """K."""
    strides: tuple[int, ...]
    flip: bool


def check(collection: Collection, shape: Shape) -> None:
    """Check that the runs are long enough for a window of every stride.

    Raises:
      InputError: they are not.
    """
    longest = max(shape.strides)
    if collection.states <= longest * shape.states:
        raise InputError(
            f"strides {shape.strides}: a window of stride {longest} needs {longest * shape.states + 1} states, the "
            f"trajectories have {collection.states}; take smaller --strides, or collect with a smaller --every"
        )


def generator(key: Array) -> np.random.Generator:
    """Draws on the host, from a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key), np.uint32).tolist())


def sample(files: Sequence[Path], count: int, states: int, shape: Shape, rng: np.random.Generator) -> Windows:
    """Windows of runs of one task, drawn with replacement.

    Args:
      files: the runs.
      count: B.
      states: of every run.
      shape: of windows.
      rng: draws run, stride, start and signs, in this order.
    """
    histories, targets = list[Tree](), list[Tree]()
    mask = np.zeros((count, shape.horizons), bool)
    for n in range(count):
        file = files[int(rng.integers(len(files)))]
        stride = shape.strides[int(rng.integers(len(shape.strides)))]
        least = min(shape.horizons, MIN_HORIZONS)
        latest = max(states - 1 - (shape.states - 1 + least) * stride, 0)
        start = int(rng.integers(latest + 1))
        length = min((states - 1 - start) // stride + 1, shape.states + shape.horizons)
        found = load(file, start, start + (length - 1) * stride + 1, stride)
        if shape.flip:
            found = {name: x * np.float32(rng.choice((-1.0, 1.0))) for name, x in found.items()}
        known = length - shape.states
        mask[n, :known] = True
        histories.append({name: x[: shape.states] for name, x in found.items()})
        targets.append({name: _padded(x[shape.states :], shape.horizons) for name, x in found.items()})
    stack = lambda trees: {name: np.stack([tree[name] for tree in trees]) for name in trees[0]}
    history = stack(histories)
    return Windows(
        tuple({name: x[:, c] for name, x in history.items()} for c in range(shape.states)), stack(targets), mask
    )


def _padded(x: Float[np.ndarray, "n *shape"], length: int) -> Float[np.ndarray, "m *shape"]:
    return np.concatenate([x, np.zeros((length - x.shape[0], *x.shape[1:]), x.dtype)])
