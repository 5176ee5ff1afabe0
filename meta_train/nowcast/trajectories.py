"""Trajectories on disk: the states of a model's parameters along a training run.

    x_t = x_0 + s_t q_t          x_0 float32;  q_t float16, at most 1;  s_t float32, one a tensor and state

So the error is at most 2^-11 of the largest move of a tensor since the start, however small its moves are beside its
values. A file is one run: safetensors, with "first:PATH", "moves:PATH" [S, ...] and "scales:PATH" [S] for every
parameter. `manifest.json` has the tasks, with their wirings, and what is known of every run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from learned_opt.errors import InputError
from learned_opt.nowcast import Wiring
from meta_train.nowcast import wirings
from meta_train.nowcast.folder import read_json, write

MANIFEST = "manifest.json"
FORMAT = "learned_opt.trajectories/1"

States = Mapping[str, Float[np.ndarray, "states *shape"]]
"""Parameter -> its states."""


class TaskRuns(NamedTuple):
    """The trajectories of a task."""

    name: str
    wiring: Wiring
    training: tuple[Path, ...]
    held_out: tuple[Path, ...]
    """The last run, for validation."""


class Collection(NamedTuple):
    """A folder of trajectories."""

    manifest: dict[str, Any]
    tasks: tuple[TaskRuns, ...]
    states: int
    """Of every run, S."""


def save(path: Path, states: States) -> None:
    """Write a trajectory, whole or not at all."""
    tensors: dict[str, np.ndarray] = {}
    for name, x in states.items():
        x = np.asarray(x, np.float32, order="C")  # safetensors writes the memory as it lies
        moves = x - x[:1]
        axes = tuple(range(1, x.ndim))
        scale = np.max(np.abs(moves), axis=axes, initial=0.0)
        unit = np.where(scale > 0.0, scale, 1.0).reshape(-1, *(1,) * len(axes))
        tensors |= {
            f"first:{name}": x[0],
            f"moves:{name}": (moves / unit).astype(np.float16),
            f"scales:{name}": scale.astype(np.float32),
        }
    write(path, safetensors.numpy.save(tensors, metadata={"format": FORMAT}))


def load(path: Path, start: int, stop: int, stride: int = 1) -> dict[str, Float[np.ndarray, "states *shape"]]:
    """States start, start + stride, … below stop, in float32.

    Raises:
      InputError: the file is missing or damaged.
    """
    found: dict[str, np.ndarray] = {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in (key.removeprefix("first:") for key in file.keys() if key.startswith("first:")):  # noqa: SIM118
                moves = file.get_slice(f"moves:{name}")[start:stop][::stride].astype(np.float32)
                scale = file.get_slice(f"scales:{name}")[start:stop][::stride]
                scale = scale.reshape(-1, *(1,) * (moves.ndim - 1))
                found[name] = file.get_tensor(f"first:{name}") + scale * moves
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): repeat its `learned-opt nowcast collect`, which makes it anew"
        ) from error
    return found


def whole(path: Path) -> bool:
    """Whether a trajectory is there, from its first byte to its last."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            return True
    except (OSError, safetensors.SafetensorError):
        return False


def open_collection(folder: Path) -> Collection:
    """What a finished `learned-opt nowcast collect` has written.

    Raises:
      InputError: there is nothing, it is not finished, a file is damaged, or all runs of it diverged.
    """
    if not (folder / MANIFEST).exists():
        raise InputError(
            f"{folder} has no {MANIFEST}: make it with `learned-opt nowcast collect PRESET --out {folder}`"
        )
    manifest = read_json(folder / MANIFEST)
    config = manifest["config"]
    expected, done = config["tasks"] * config["runs"], len(manifest["runs"])
    if manifest.get("format") != FORMAT or done != expected:
        raise InputError(
            f"{folder} has {done} of {expected} runs: repeat its `learned-opt nowcast collect` to finish it"
        )
    tasks = []
    for number, task in enumerate(manifest["tasks"]):
        runs = [run for run in manifest["runs"] if run["task"] == number and not run["diverged"]]
        files = tuple(folder / run["file"] for run in runs)
        if damaged := [path for path in files if not whole(path)]:
            raise InputError(
                f"{damaged[0]} is missing or damaged: repeat its `learned-opt nowcast collect`, which makes it anew"
            )
        if len(files) >= 2:
            tasks.append(TaskRuns(task["name"], wirings.from_json(task["wiring"]), files[:-1], files[-1:]))
    if not tasks:
        raise InputError(f"{folder}: fewer than two runs of every task stayed finite: collect at lower rates (--high)")
    return Collection(manifest, tuple(tasks), config["steps"] // config["every"] + 1)
