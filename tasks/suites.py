"""Named tasks, suites of tasks to judge optimizers on, and distributions to meta-train on.

Nothing is read before one of them is asked for. A suite reads each data set once, and its tasks share it. The names
are defined in `tasks.catalogue`, a module each for the distributions that belong together.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from tasks.catalogue import FAMILY_ENTRIES, SUITE_ENTRIES, TASK_ENTRIES
from tasks.catalogue.entries import Library, with_stand_ins
from tasks.errors import InputError
from tasks.task import Task, TaskFamily

Entry = TypeVar("Entry")


def task(name: str, data_dir: str | os.PathLike[str] | None = None) -> Task:
    """The task of that name; InputError with the nearest names if unknown, else the errors of `data.load`."""
    return _look_up("task", name, TASK_ENTRIES).make(Library(data_dir))


def suite(name: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[Task, ...]:
    """The tasks of the suite of that name; errors as in `task`."""
    return with_stand_ins(name, _look_up("suite", name, SUITE_ENTRIES), TASK_ENTRIES, Library(data_dir))


def family(name: str, data_dir: str | os.PathLike[str] | None = None, *, library: Library | None = None) -> TaskFamily:
    """The training distribution of that name; errors as in `task`.

    Args:
      name: one of `FAMILIES`.
      data_dir: see `tasks.storage.data_directory`.
      library: read from it instead; it then tells which data sets are streamed.
    """
    return _look_up("task family", name, FAMILY_ENTRIES).make(library or Library(data_dir))


TASKS: Mapping[str, Callable[[], Task]] = {name: partial(task, name) for name in TASK_ENTRIES}
SUITES: Mapping[str, Callable[[], tuple[Task, ...]]] = {name: partial(suite, name) for name in SUITE_ENTRIES}
FAMILIES: Mapping[str, Callable[[], TaskFamily]] = {name: partial(family, name) for name in FAMILY_ENTRIES}


def describe_tasks() -> dict[str, str]:
    """{name: one line} of every task; reads no data."""
    return {name: entry.description for name, entry in TASK_ENTRIES.items()}


def describe_suites() -> dict[str, str]:
    """{name: one line} of every suite; reads no data."""
    return {name: f"{len(entry.tasks)} tasks: {entry.description}" for name, entry in SUITE_ENTRIES.items()}


def describe_families() -> dict[str, str]:
    """{name: one line} of every training distribution; reads no data."""
    return {name: entry.description for name, entry in FAMILY_ENTRIES.items()}


def _look_up(kind: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    if name not in entries:
        raise InputError(f"unknown {kind} {name!r}: {_nearest(name, entries)}; `learned-opt list` shows all")
    return entries[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"expected one of {', '.join(known)}"
