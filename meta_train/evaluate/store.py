"""The directory of an evaluation: what is finished is never lost, repeated or mixed with something else.

    evaluation.json        the configuration; results of another one are refused
    results.jsonl          one line per training run, in groups: all runs of one optimizer on one task
    curves/TASK/NAME.npz   training curves and compile time of a group
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from learned_opt.errors import InputError

FIELDS = {
    "task", "optimizer", "kind", "trial", "learning_rate", "seed", "steps", "mean_train_loss", "first_train_loss",
    "final_train_loss", "final_valid_loss", "diverged", "diverged_at", "seconds",
}  # fmt: skip
"""Of every line of results.jsonl."""

CURVE_POINTS = 250
"""Points of a stored curve at most; longer ones are averaged over equal windows of steps."""

Row = dict[str, Any]
"""One line of results.jsonl."""


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


@contextmanager
def opened(out: Path, configuration: Mapping[str, Any], runs: Mapping[tuple[str, str], int]) -> Iterator[Store]:
    """Open or create the directory for one configuration, with what is complete in it.

    Args:
      out: the directory.
      configuration: JSON values; must equal that of the results already there.
      runs: (task, optimizer) -> training runs of a complete group.

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
        _check(out, asked)
        write_json(out / "evaluation.json", asked)
        yield Store(out, _complete_groups(out, runs))


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


def windows(losses: Float[np.ndarray, "trials seeds T"]) -> dict[str, np.ndarray]:
    """Curves of at most `CURVE_POINTS` points: means over equal windows of steps, the last possibly shorter.

    Returns:
      `loss`, float32 [trials, seeds, points], and `step`, int32 [points]: the first step of each window.
    """
    steps = losses.shape[-1]
    first = np.arange(0, steps, -(-steps // CURVE_POINTS))
    lengths = np.diff(first, append=steps)
    with np.errstate(over="ignore", invalid="ignore"):  # diverged runs keep their inf and nan
        loss = np.add.reduceat(losses.astype(np.float64), first, axis=-1) / lengths.reshape(1, 1, -1)
        return {"loss": loss.astype(np.float32), "step": first.astype(np.int32)}


def _check(out: Path, asked: dict[str, Any]) -> None:
    path = out / "evaluation.json"
    if not path.exists():
        others = sorted(p.name for p in out.iterdir() if p.name != ".lock" and p.suffix != ".partial")
        if others:
            raise InputError(f"out: {out} holds {others[0]} but no evaluation.json; choose another --out")
        return
    try:
        there = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"out: {path} is not JSON; choose another --out") from error
    differences = list(_differences("", there, asked))
    if differences:
        raise InputError(
            f"out: {out} holds results of another configuration ({'; '.join(differences)}); "
            "choose another --out, or the same settings to resume"
        )


def _differences(name: str, there: Any, asked: Any) -> Iterator[str]:
    """`field: there, asked` for each leaf that differs."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in [*there, *(k for k in asked if k not in there)]:
            inner = f"{name}.{key}" if name else key
            yield from _differences(inner, there.get(key, "absent"), asked.get(key, "absent"))
    elif there != asked:
        show = lambda value: "present" if isinstance(value, dict) else json.dumps(value)
        yield f"{name}: {show(there)} there, {show(asked)} asked"


def _complete_groups(out: Path, runs: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], list[Row]]:
    """Read the results; a group cut short by a kill, or without its curves, is removed from the file."""
    path = out / "results.jsonl"
    before = path.read_bytes() if path.exists() else b""
    found: dict[tuple[str, str], list[Row]] = {}
    for line in before.splitlines():
        try:
            row = json.loads(line)
            found.setdefault((row["task"], row["optimizer"]), []).append(row)
        except (ValueError, KeyError, TypeError):
            continue  # cut short; its group is then incomplete
    whole = lambda rows, pair: len(rows) == runs.get(pair) and all(row.keys() >= FIELDS for row in rows)
    groups = {pair: rows for pair, rows in found.items() if whole(rows, pair) and _readable(curves_path(out, *pair))}
    after = b"".join(_lines(rows) for rows in groups.values())
    if after != before:
        partial = path.with_suffix(".partial")
        partial.write_bytes(after)
        partial.replace(path)
    return groups


def _readable(curves: Path) -> bool:
    try:
        with curves.open("rb") as file, np.load(file) as arrays:
            return all(arrays[name] is not None for name in ("loss", "step", "compile_seconds"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
