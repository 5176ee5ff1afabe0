"""The directory of an evaluation: what is finished is never lost, repeated or mixed with something else.

    evaluation.json        the configuration; results of another one are refused, other optimizers are added
    results.jsonl          one line per training run, in groups: all runs of one optimizer on one task
    curves/TASK/NAME.npz   curves, compile time and sizes of a group
    summary.json           see `summary`

A group is written in one piece, its curves first. After a kill in the middle of it the group is incomplete:
it is dropped when the directory is opened again, and run again.
"""

import fcntl
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from learned_opt.errors import InputError

FIELDS = {
    "task", "optimizer", "kind", "trial", "learning_rate", "schedule", "weight_decay", "seed", "steps",
    "mean_train_loss", "first_train_loss", "final_train_loss", "final_valid_loss", "diverged", "diverged_at", "seconds",
    "source",
}  # fmt: skip
"""Of every line of results.jsonl; `source` is run or archive."""

ARRAYS = ("loss", "step", "valid_loss", "valid_step", "compile_seconds", "state_bytes", "param_bytes")
"""Of every file of curves."""

Row = dict[str, Any]
"""One line of results.jsonl."""


BLOWN_UP = 2.0
"""A run that ends at more than this many times the loss it started from has failed, finite or not."""


def diverged(first: float | None, final_train: float | None, final_valid: float | None, at: int | None) -> bool:
    """Whether a run failed: None is a loss that is not finite, `at` the first step with one."""
    if first is None or final_train is None or final_valid is None or at is not None:
        return True
    return final_train > BLOWN_UP * first


@dataclass(frozen=True)
class Store:
    """An open directory of results; made by `opened`."""

    out: Path
    """The directory."""
    groups: dict[tuple[str, str], list[Row]] = field(default_factory=dict)
    """(task, optimizer) -> the rows of a complete group."""

    def add(self, rows: Sequence[Row], curves: Mapping[str, np.ndarray]) -> None:
        """Write a complete group: its curves, then its rows in one flush."""
        task, optimizer = rows[0]["task"], rows[0]["optimizer"]
        path = curves_path(self.out, task, optimizer)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **dict(curves))
        partial.replace(path)
        with (self.out / "results.jsonl").open("ab") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())
        self.groups[task, optimizer] = list(rows)

    def amend(self, groups: Mapping[tuple[str, str], Sequence[Row]]) -> None:
        """Replace the rows of complete groups, in one atomic step."""
        self.groups.update({pair: list(rows) for pair, rows in groups.items()})
        _rewrite(self.out / "results.jsonl", self.groups.values())


@contextmanager
def opened(
    out: Path,
    configuration: Mapping[str, Any],
    *,
    usable: Callable[[Sequence[Row]], bool] = lambda rows: True,
    subjects: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Store]:
    """Open or create the directory for one configuration, with what is complete in it.

    Args:
      out: the directory.
      configuration: JSON values; must equal that of the results already there, but for optimizers that only one of
        the two has. Its `tasks`, `seeds` and the `trials` of its `optimizers` say what is complete.
      usable: whether a complete group of a contender of this configuration is kept; others always are.
      subjects: task -> what errors call it.

    Raises:
      InputError: it holds another configuration's results, is in use, or cannot be written; nothing changes.
    """
    asked = json.loads(json.dumps(configuration))
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise InputError(f"out: cannot write to {out} ({error.strerror}); choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"out: another evaluation is writing to {out}; wait, or choose another --out") from error
        there = _check(out, asked, subjects)
        everything = asked | {"optimizers": there.get("optimizers", {}) | asked["optimizers"]}
        write_json(out / "evaluation.json", everything)
        groups = complete_groups(out, expected_runs(everything))
        kept = {pair: rows for pair, rows in groups.items() if pair[1] not in asked["optimizers"] or usable(rows)}
        _rewrite(out / "results.jsonl", kept.values())
        yield Store(out, kept)


def expected_runs(configuration: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """(task, optimizer) -> training runs of a complete group."""
    return {
        (task, name): len(identity["trials"]) * configuration["seeds"]
        for task in configuration["tasks"]
        for name, identity in configuration["optimizers"].items()
    }


def complete_groups(out: Path, runs: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], list[Row]]:
    """Read the results; a group cut short by a kill, or without its curves, is left out.

    Args:
      out: the directory.
      runs: (task, optimizer) -> training runs of a complete group.
    """
    path = out / "results.jsonl"
    found: dict[tuple[str, str], list[Row]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            found.setdefault((row["task"], row["optimizer"]), []).append(row)
        except (ValueError, KeyError, TypeError):
            continue  # cut short; its group is then incomplete
    whole = lambda rows, pair: len(rows) == runs.get(pair) and all(map(_is_row, rows))
    return {pair: rows for pair, rows in found.items() if whole(rows, pair) and _readable(curves_path(out, *pair))}


def _is_row(row: Mapping[str, Any]) -> bool:
    """Whether a line has all fields, and numbers or null where losses belong."""
    losses = (row.get(name) for name in FIELDS if name.endswith("_loss"))
    return row.keys() >= FIELDS and all(x is None or isinstance(x, int | float) for x in losses)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN) in one atomic step."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    partial.replace(path)


def curves_path(out: Path, task: str, optimizer: str) -> Path:
    """Where the curves of a group are: readable, and without collisions for optimizers named by a path."""
    plain = lambda name: re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[-80:]
    named = plain(optimizer)
    if named != optimizer:
        named += "-" + hashlib.sha256(optimizer.encode()).hexdigest()[:8]
    return out / "curves" / plain(task) / f"{named}.npz"


def read_curves(out: Path, task: str, optimizer: str) -> dict[str, np.ndarray]:
    """The arrays of a group, by the names in `ARRAYS`."""
    with np.load(curves_path(out, task, optimizer)) as arrays:
        return {name: arrays[name] for name in ARRAYS}


def _check(out: Path, asked: dict[str, Any], subjects: Mapping[str, str]) -> dict[str, Any]:
    """The configuration that is there, {} if none, once it agrees with the one asked for."""
    path = out / "evaluation.json"
    if not path.exists():
        others = sorted(p.name for p in out.iterdir() if p.name != ".lock" and p.suffix != ".partial")
        if others:
            raise InputError(f"out: {out} holds {others[0]} but no evaluation.json; choose another --out")
        return {}
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"out: {path} is not JSON; choose another --out") from error
    if not isinstance(there, dict) or not isinstance(there.get("optimizers"), dict):
        raise InputError(f"out: {path} is not the configuration of an evaluation; choose another --out")
    common = there.get("optimizers", {}).keys() & asked["optimizers"].keys()
    only = lambda c: c | {"optimizers": {name: c["optimizers"][name] for name in sorted(common)}, "fingerprints": None}
    differences = list(_differences("", only(there), only(asked)))
    before, now = (c.get("fingerprints", {}) for c in (there, asked))
    changed = [subjects.get(task, task) for task in now if before.get(task, now[task]) != now[task]]
    if changed:
        differences.append(f"data or settings of {', '.join(changed)} are not what they were")
    if differences:
        same = "bring back the data of then" if changed else "the same settings"
        raise InputError(
            f"out: {out} holds results of another configuration ({'; '.join(differences)}); "
            f"choose another --out, or {same} to resume"
        )
    return there


def _differences(name: str, there: Any, asked: Any) -> Iterator[str]:
    """`field: there, asked` for each leaf that differs."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in [*there, *(k for k in asked if k not in there)]:
            inner = f"{name}.{key}" if name else key
            yield from _differences(inner, there.get(key, "absent"), asked.get(key, "absent"))
    elif there != asked:
        other = "other ones " if len({_shown(there), _shown(asked)}) == 1 else ""
        yield f"{name}: {_shown(there)} there, {other}{_shown(asked)} asked"


def _shown(value: Any) -> str:
    """A setting in a few characters: lists by their length, hashes by how they start."""
    if isinstance(value, dict | list):
        return "present" if isinstance(value, dict) else f"{len(value)} of them"
    text = json.dumps(value)
    return text if len(text) <= 40 else f'{text[:9]}…"'


def _rewrite(path: Path, groups: Iterable[Sequence[Row]]) -> None:
    """Leave only these groups in the file."""
    before = path.read_bytes() if path.exists() else b""
    after = b"".join(_lines(rows) for rows in groups)
    if after != before:
        partial = path.with_suffix(".partial")
        partial.write_bytes(after)
        partial.replace(path)


def _readable(curves: Path) -> bool:
    try:
        with curves.open("rb") as file, np.load(file) as arrays:
            return all(arrays[name] is not None for name in ARRAYS)  # read, to the last byte
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
