"""The named tasks, suites and training distributions; `tasks.suites` looks them up."""

from collections.abc import Mapping

from tasks.catalogue import beyond, celo, digits, held_out, validation, velo, velodrome, wide
from tasks.catalogue.entries import FamilyEntry, SuiteEntry, TaskEntry

_ALL = tuple(module.CATALOGUE for module in (digits, celo, velo, wide, validation, held_out, beyond, velodrome))

TASK_ENTRIES: Mapping[str, TaskEntry] = {name: entry for c in _ALL for name, entry in c.tasks.items()}
SUITE_ENTRIES: Mapping[str, SuiteEntry] = {name: entry for c in _ALL for name, entry in c.suites.items()}
FAMILY_ENTRIES: Mapping[str, FamilyEntry] = {name: entry for c in _ALL for name, entry in c.families.items()}
