"""Mixtures of task families."""

import math
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Array, Key

from tasks.augmentations import Augmented, AugmentedFamily
from tasks.errors import InputError
from tasks.task import Task, TaskFamily


@dataclass(frozen=True, eq=False)
class Mixture:
    """Tasks of several families.

    Attributes:
      name: see `tasks.task.TaskFamily`.
      families: of the tasks; each names its tasks.
      odds: of each family, not negative; they need not sum to one.

    Raises:
      InputError: if there are not as many odds as families, or they cannot be made to sum to one.
    """

    name: str
    families: tuple[TaskFamily, ...]
    odds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.odds) != len(self.families):
            raise InputError(
                f"mixture {self.name!r}: {len(self.odds)} odds for {len(self.families)} families, expected one each"
            )
        if not (all(odds >= 0 for odds in self.odds) and 0 < sum(self.odds) < math.inf):
            raise InputError(f"mixture {self.name!r}: odds {self.odds}, expected none below zero and one above")

    def sample(self, key: Key[Array, ""]) -> Task:
        """A task of a family drawn with its odds."""
        key_family, key_task = jax.random.split(key)
        ends = np.cumsum(self.odds)
        share = float(jax.random.uniform(key_family)) * ends[-1]
        return self.families[int(np.searchsorted(ends, share, side="right"))].sample(key_task)


def draw(family: TaskFamily, key: Key[Array, ""], count: int) -> tuple[Task, ...]:
    """`count` tasks of a family; of a mixture, augmented or not, as evenly as its odds allow.

    Systematic sampling (Madow & Madow 1944): of a member with share p, floor(p count) or one more. So four tasks of
    four members that are equally likely are one of each.
    """
    members = _members(family)
    ends = np.cumsum([odds for odds, _ in members])
    start = float(jax.random.uniform(jax.random.fold_in(key, count)))
    places = (np.arange(count) + start) / count * ends[-1]
    chosen = np.minimum(np.searchsorted(ends, places, side="right"), len(members) - 1)
    return tuple(members[m][1].sample(jax.random.fold_in(key, i)) for i, m in enumerate(chosen))


def _members(family: TaskFamily) -> list[tuple[float, TaskFamily]]:
    """The families that a mixture holds at any depth, with their odds, each with the augmentations around it."""
    if isinstance(family, Mixture):
        shares = [odds / sum(family.odds) for odds in family.odds]
        return [
            (share * odds, inner)
            for share, member in zip(shares, family.families, strict=True)
            for odds, inner in _members(member)
        ]
    if isinstance(family, Augmented | AugmentedFamily):
        return [(odds, replace(family, family=inner)) for odds, inner in _members(family.family)]
    return [(1.0, family)]
