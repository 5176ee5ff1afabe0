"""What a name stands for, and where its data come from."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from tasks import data, storage
from tasks.embedded import EMBEDDED
from tasks.errors import DataTooLarge, DataUnavailable
from tasks.sources import Examples, Windows
from tasks.streaming import Reservoir, stream
from tasks.task import Task, TaskFamily

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Library:
    """Data sets by name, each read when it is first asked for and held once.

    Attributes:
      data_dir: see `tasks.storage.data_directory`.
      seed: of the order in which sets too large for the device are streamed.
      streams: of those that were asked for; their first buffers are what `dataset` returns.
    """

    data_dir: str | os.PathLike[str] | None = None
    seed: int = 0
    streams: list[Reservoir] = field(default_factory=list)
    _held: dict[str, data.Dataset] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the set can be had without preparing anything by hand."""
        return name in EMBEDDED or storage.is_prepared(name, self.data_dir)

    def dataset(self, name: str) -> data.Dataset:
        """The set as `tasks.data.load` reads it, with its errors; of one that is too large, the first buffer."""
        if name not in self._held:
            try:
                self._held[name] = data.load(name, data_dir=self.data_dir)
            except DataTooLarge:
                self.streams.append(stream(name, seed=self.seed, data_dir=self.data_dir))
                self._held[name] = self.streams[-1].dataset
        return self._held[name]

    def _whole(self, name: str) -> data.Dataset:
        """The set, to be changed as a whole; DataTooLarge where it is streamed."""
        dataset = self.dataset(name)
        if any(reservoir.dataset.name == name for reservoir in self.streams):
            raise DataTooLarge(f"data set {name!r} is streamed, and its images are not resized: prepare a smaller one")
        return dataset

    def examples(self, name: str) -> Examples:
        """Its examples."""
        return Examples(self.dataset(name))

    def flat(self, name: str) -> Examples:
        """Its images, each one vector."""
        if f"{name} flat" not in self._held:
            self._held[f"{name} flat"] = data.flatten_images(self.dataset(name))
        return Examples(self._held[f"{name} flat"])

    def resized(self, name: str, size: int) -> Examples:
        """Its images, resized to `size` x `size`; called `<name>@<size>`."""
        key = f"{name} {size}"
        if key not in self._held:
            small = data.resize_images(self._whole(name), size)
            self._held[key] = dataclasses.replace(small, name=f"{name}@{size}")
        return Examples(self._held[key])

    def resized_flat(self, name: str, size: int) -> Examples:
        """The same, each image one vector."""
        key = f"{name} {size} flat"
        if key not in self._held:
            self._held[key] = data.flatten_images(self.resized(name, size).data)
        return Examples(self._held[key])

    def small_grey(self, name: str, size: int) -> Examples:
        """Its images in grey, resized to `size` x `size`, each one vector; called `<name>@<size>-grey`."""
        key = f"{name} {size} grey"
        if key not in self._held:
            small = data.flatten_images(data.resize_images(data.to_grey(self._whole(name)), size))
            self._held[key] = dataclasses.replace(small, name=f"{name}@{size}-grey")
        return Examples(self._held[key])

    def windows(self, name: str, length: int) -> Windows:
        """Windows of `length` tokens of it."""
        return Windows(self.dataset(name), length)


class TaskEntry(NamedTuple):
    """A named task."""

    description: str
    make: Callable[[Library], Task]


def named(name: str, description: str, make: Callable[[Library, str], Task]) -> TaskEntry:
    """The entry of a task whose maker takes its name too."""
    return TaskEntry(description, lambda library: make(library, name))


class SuiteEntry(NamedTuple):
    """A named suite."""

    description: str
    tasks: tuple[str, ...]
    """Names of its tasks."""
    stand_ins: Mapping[str, str] = MappingProxyType({})
    """Name of a task whose data may not be there -> name of the task that then takes its place, with a warning."""


class FamilyEntry(NamedTuple):
    """A named training distribution."""

    description: str
    make: Callable[[Library], TaskFamily]


class Catalogue(NamedTuple):
    """The names that one module defines."""

    tasks: dict[str, TaskEntry]
    suites: dict[str, SuiteEntry]
    families: dict[str, FamilyEntry]


def with_stand_ins(name: str, suite: SuiteEntry, tasks: Mapping[str, TaskEntry], library: Library) -> tuple[Task, ...]:
    """The tasks of a suite; where the data of one are not there, its stand-in if it has one, with a warning."""

    def make(member: str) -> Task:
        try:
            return tasks[member].make(library)
        except DataUnavailable as error:
            if member not in suite.stand_ins:
                raise
            stand_in = suite.stand_ins[member]
            _LOG.warning("%s: %s takes the place of %s: %s", name, stand_in, member, error)
            return tasks[stand_in].make(library)

    return tuple(map(make, suite.tasks))
