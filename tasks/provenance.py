"""What tasks and training distributions are made of, and the rule that keeps the two apart.

A task is *held out* from a set of training distributions if

1. none of its data sets is in any of them, and
2. its family is in none of them, or its width, depth or sequence length lies outside the range over which they
   draw it: `outside` names which, and `shared` what keeps a task from being held out.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from tasks import suites
from tasks.catalogue import velo
from tasks.catalogue.entries import Library
from tasks.data import Dataset, Split
from tasks.embedded import EMBEDDED
from tasks.task import Task, TaskFamily

Range = tuple[int, int]


class Provenance(NamedTuple):
    """Of a task, or of all tasks that a distribution can draw."""

    data: frozenset[str]
    """Names of data sets; empty for tasks that need none."""
    families: Mapping[str, Mapping[str, Range]]
    """Name of a module of `tasks.families` -> its ranges of width, depth and length, lowest and highest."""


def of_task(task: Task) -> Provenance:
    """What a task is made of, below its augmentations."""
    inner: Any = task
    while hasattr(inner, "task"):
        inner = inner.task
    model, source = getattr(inner, "model", inner), getattr(inner, "source", None)
    dimensions = {name: (size, size) for name, size in getattr(model, "dimensions", {}).items()}
    return Provenance(_data(source), {_module(model): dimensions})


def of_family(family: TaskFamily) -> Provenance:
    """What a distribution draws from, below its augmentations and mixtures."""
    inner: Any = family
    if hasattr(inner, "task"):
        return of_task(inner.task)
    if hasattr(inner, "family"):
        return of_family(inner.family)
    if hasattr(inner, "families"):
        return union(of_family(member) for member in inner.families)
    space, sources = getattr(inner, "space", inner), getattr(inner, "sources", ())
    ranges = {name: getattr(space, name) for name in ("width", "depth", "length") if hasattr(space, name)}
    return Provenance(frozenset().union(*map(_data, sources)), {_module(space): ranges})


def union(parts: Iterable[Provenance]) -> Provenance:
    """What any of them has; the ranges of a family are joined to the smallest range that holds them."""
    data: frozenset[str] = frozenset()
    families: dict[str, dict[str, Range]] = {}
    for part in parts:
        data |= part.data
        for family, ranges in part.families.items():
            joined = families.setdefault(family, {})
            for name, (low, high) in ranges.items():
                before = joined.get(name, (low, high))
                joined[name] = min(low, before[0]), max(high, before[1])
    return Provenance(data, families)


def outside(task: Provenance, training: Provenance) -> list[str]:
    """Why a task is not one that training can have seen, one entry a reason; empty if it may have been.

    A data set in common is not forgiven by anything, so the list is then empty too.
    """
    if task.data & training.data:
        return []
    [(family, sizes)] = task.families.items()
    if family not in training.families:
        return [f"no training on {family}"]
    ranges = training.families[family]
    return [
        f"{name} {low} outside {ranges[name][0]} to {ranges[name][1]}"
        for name, (low, _) in sizes.items()
        if name in ranges and not ranges[name][0] <= low <= ranges[name][1]
    ]


def shared(task: Provenance, training: Provenance) -> list[str]:
    """Why a task is not held out from training, one entry a reason; empty if it is."""
    if outside(task, training):
        return []
    return [f"data set {name}" for name in sorted(task.data & training.data)] or [
        f"{family} of a size that is trained on" for family in task.families
    ]


def of_training(distribution: str, drawn: Iterable[str] = ()) -> Provenance:
    """What weights were trained on, by names; reads no data, so it does not matter which data sets are there.

    Args:
      distribution: of `suites.FAMILIES`.
      drawn: names of the tasks that were drawn: they tell which sets stood in for what was not there.

    Raises:
      InputError: there is no such distribution.
    """
    tasks = list(drawn)
    named = {name for name in (*EMBEDDED, *velo.TEXTS) if any(name in task for task in tasks)}
    return union([of_family(suites.family(distribution, library=Names())), Provenance(frozenset(named), {})])


@dataclass(frozen=True, eq=False)
class Names(Library):
    """A data set of one made-up example under any name: what a distribution draws is known without its data."""

    def has(self, name: str) -> bool:
        """It has all of them."""
        return True

    def dataset(self, name: str) -> Dataset:
        """One example with every field."""
        number, vector = jnp.zeros(1, jnp.int32), jnp.zeros((1, 1))
        fields = {"image": jnp.zeros((1, 1, 1, 3)), "label": number, "token": number, "x": vector, "y": vector}
        return Dataset(Split(fields), Split(fields), name, 2)


def _data(source: Any) -> frozenset[str]:
    """Name of the set, not of its size, configuration or version: mnist@8 and mnist:3.0.1 are mnist."""
    return frozenset() if source is None else frozenset({re.split("[@/:]", source.name)[0]})


def _module(thing: Any) -> str:
    return type(thing).__module__.rpartition(".")[2]
