"""Named tasks, suites of tasks to judge optimizers on, and distributions to meta-train on.

Nothing is read before one of them is asked for. A suite reads each data set once, and its tasks share it.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import NamedTuple, TypeVar

from tasks import data
from tasks.errors import InputError
from tasks.families.image_mlp import ImageMLP, ImageMLPFamily, task_name
from tasks.task import Task, TaskFamily

Entry = TypeVar("Entry")


class Sources(NamedTuple):
    """Data sets by name, each held once however often it is asked for; makers that need none ignore it."""

    images: Callable[[str], data.Dataset]
    flat_images: Callable[[str], data.Dataset]  # each image one vector


class TaskEntry(NamedTuple):
    """A named task."""

    description: str
    make: Callable[[Sources], Task]


class SuiteEntry(NamedTuple):
    """A named suite: names of `TASKS`."""

    description: str
    tasks: tuple[str, ...]


class FamilyEntry(NamedTuple):
    """A named training distribution."""

    description: str
    make: Callable[[Sources], TaskFamily]


def _digits_mlp(sources: Sources, widths: tuple[int, ...], activation: str) -> Task:
    name = task_name("digits_mlp", widths, activation)
    return ImageMLP(sources.flat_images("sklearn_digits"), name, widths, activation)


def _digits_mlp_fixed(sources: Sources) -> TaskFamily:
    return ImageMLPFamily(
        sources.flat_images("sklearn_digits"),
        "digits-mlp",
        widths=(32, 32),
        depth=(1, 1),
        activations=("relu",),
        initial_scale=(1.0, 1.0),
        batch_size=(128, 128),
    )


def _digits_mlp_wide(sources: Sources) -> TaskFamily:
    return ImageMLPFamily(sources.flat_images("sklearn_digits"), "digits-mlp-wide")


_TASKS: Mapping[str, TaskEntry] = {
    "digits_mlp_32": TaskEntry(
        "8x8 digits, perceptron 64-32-10, relu, batch 128",
        partial(_digits_mlp, widths=(32,), activation="relu"),
    ),
    "digits_mlp_96x96x96_tanh": TaskEntry(
        "8x8 digits, perceptron 64-96-96-96-10, tanh, batch 128",
        partial(_digits_mlp, widths=(96, 96, 96), activation="tanh"),
    ),
}

_SUITES: Mapping[str, SuiteEntry] = {
    "digits": SuiteEntry(
        "the task of digits-mlp, and one of a width, depth and activation that it never has",
        ("digits_mlp_32", "digits_mlp_96x96x96_tanh"),
    ),
}

_FAMILIES: Mapping[str, FamilyEntry] = {
    "digits-mlp": FamilyEntry(
        "one task: 8x8 digits, perceptron 64-32-10, relu, batch 128, Haiku's initial scale",
        _digits_mlp_fixed,
    ),
    "digits-mlp-wide": FamilyEntry(
        "8x8 digits, 1-4 hidden layers of 8-128 units, four activations, initial scale 0.3-3, batch 16-256",
        _digits_mlp_wide,
    ),
}


def task(name: str, data_dir: str | os.PathLike[str] | None = None) -> Task:
    """The task of that name; InputError with the nearest names if unknown, else the errors of `data.load`."""
    return _look_up("task", name, _TASKS).make(_sources(data_dir))


def suite(name: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[Task, ...]:
    """The tasks of the suite of that name; errors as in `task`."""
    sources = _sources(data_dir)
    return tuple(_TASKS[member].make(sources) for member in _look_up("suite", name, _SUITES).tasks)


def family(name: str, data_dir: str | os.PathLike[str] | None = None) -> TaskFamily:
    """The training distribution of that name; errors as in `task`."""
    return _look_up("task family", name, _FAMILIES).make(_sources(data_dir))


TASKS: Mapping[str, Callable[[], Task]] = {name: partial(task, name) for name in _TASKS}
SUITES: Mapping[str, Callable[[], tuple[Task, ...]]] = {name: partial(suite, name) for name in _SUITES}
FAMILIES: Mapping[str, Callable[[], TaskFamily]] = {name: partial(family, name) for name in _FAMILIES}


def describe_tasks() -> dict[str, str]:
    """{name: one line} of every task; reads no data."""
    return {name: entry.description for name, entry in _TASKS.items()}


def describe_suites() -> dict[str, str]:
    """{name: one line} of every suite; reads no data."""
    return {name: f"{len(entry.tasks)} tasks: {entry.description}" for name, entry in _SUITES.items()}


def describe_families() -> dict[str, str]:
    """{name: one line} of every training distribution; reads no data."""
    return {name: entry.description for name, entry in _FAMILIES.items()}


def _sources(data_dir: str | os.PathLike[str] | None) -> Sources:
    images = cache(partial(data.load, data_dir=data_dir))
    return Sources(images, cache(lambda name: data.flatten_images(images(name))))


def _look_up(kind: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    if name not in entries:
        raise InputError(f"unknown {kind} {name!r}: {_nearest(name, entries)}; `learned-opt list` shows all")
    return entries[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"expected one of {', '.join(known)}"
