"""Folders of results: one writer, one configuration, and files that are there whole or not at all."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from learned_opt.errors import InputError

CONFIG = "config.json"
LOCK = ".lock"


@contextmanager
def claim(folder: Path, kind: str, config: dict[str, Any]) -> Iterator[None]:
    """Hold a folder for one writer, as a new one or one that was begun with exactly this configuration.

    Args:
      folder: made if it is not there.
      kind: what it holds, such as "trajectories".
      config: JSON values.

    Raises:
      InputError: it holds something else, belongs to another configuration, or is being written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder} is being written by another process: choose another --out") from error
        mine = json.loads(json.dumps({"kind": kind} | config))
        path = folder / CONFIG
        if not path.exists():
            others = sorted(each.name for each in folder.iterdir() if each.name not in (LOCK, f"{CONFIG}.partial"))
            if others:
                raise InputError(f"{folder} holds {others[0]} but no {CONFIG}: choose another --out")
            write(path, json.dumps(mine, indent=2) + "\n")
        theirs = read_json(path)
        odd = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        if odd:
            raise InputError(
                f"{folder} was begun with {odd[0]} {theirs.get(odd[0])!r}, not {mine.get(odd[0])!r}: repeat its "
                "settings to go on, or choose another --out"
            )
        yield


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      InputError: it cannot be read.
    """
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise TypeError("no object")
        return value
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): restore it, or repeat the command elsewhere") from error


def write(path: Path, data: str | bytes) -> None:
    """Write a file in one move."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data.encode() if isinstance(data, str) else data)
    partial.replace(path)
