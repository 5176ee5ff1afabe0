"""The directory of a meta-training run: who may write it, and what it was made with.

    config.json           configuration, and a record of every start (versions, devices, command, tasks)
    metrics.jsonl  tb/    see `meta_train.metrics`
    checkpoints/          see `meta_train.checkpointing`
    weights.safetensors   card.json   the result, loadable by `learned_opt.from_pretrained`

Importing this module loads no JAX.
"""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from learned_opt.errors import InputError
from meta_train import config as configs
from meta_train.config import MetaTrainConfig

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tb"
LOCK = ".lock"

_PACKAGES = ("learned-opt", "jax", "jaxlib", "dm-haiku", "numpy", "optax", "orbax-checkpoint")


@contextmanager
def claim(run: Path, config: MetaTrainConfig) -> Iterator[None]:
    """Hold `run` for one writer, as a new run of `config` or one begun with exactly it; nothing is overwritten.

    Raises:
      InputError: `run` holds something else, belongs to another configuration, or is being written.
    """
    if str(run) == ".":
        raise InputError(
            "--out is the working directory: expected a directory for the run, such as --out runs/quickstart"
        )
    _check_contents(run)
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / LOCK).open("a")
    except OSError as error:
        raise InputError(f"{run} cannot be written ({error.strerror}): choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{run} is being written by another process: wait for it, or choose another --out"
            ) from error
        _check_contents(run)
        _check_config(run, config)
        # Before anything else is written: whatever happens from here on, the directory is a run that can be resumed.
        if not _begun(run):
            _write(run, config, starts=[])
        yield


def read_config(run: Path) -> MetaTrainConfig:
    """The configuration that `run` was begun with.

    Raises:
      InputError: there is none, or it cannot be read.
    """
    values = _read(run)["config"]
    try:
        return configs.from_json(values)
    except InputError as error:
        raise InputError(f"{run / CONFIG}: {error}: restore it, or name another run") from error


def is_run(run: Path) -> bool:
    """Whether a run has been begun in `run`."""
    return (run / CONFIG).exists()


def check_tasks(run: Path, tasks: Mapping[str, str]) -> None:
    """Compare the shapes of tasks with those that `run` was begun with, if it was.

    Raises:
      InputError: one differs, so its checkpoints fit nothing.
    """
    starts = _read(run)["starts"] if is_run(run) else []
    theirs = starts[0].get("tasks") if starts else None
    if theirs is None or theirs == dict(tasks):
        return
    name = next(name for name in [*theirs, *tasks] if theirs.get(name) != tasks.get(name))
    raise InputError(
        f"{run} was begun with other tasks: {name} is {_told(tasks.get(name))}, expected {_told(theirs.get(name))}. "
        f"Restore the data, or the version of this package (then {_version(starts[0])}), or choose another --out"
    )


def record_start(
    run: Path, config: MetaTrainConfig, *, step: int, devices: Sequence[str], tasks: Mapping[str, str]
) -> None:
    """Write `config.json`, or add this start to the ones that are there."""
    starts = _read(run)["starts"]
    start = {
        "step": step,
        "command": ["learned-opt", *sys.argv[1:]],
        "devices": list(devices),
        "versions": versions(),
        "git": git_revision(),
        "tasks": dict(tasks),
    }
    _write(run, config, starts=[*starts, start])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **installed}


def git_revision() -> str | None:
    """Commit of the source, with "-dirty" if files differ from it; None where the source is no git checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def source_digest() -> str:
    """Of the source itself: two checkouts of one version may differ."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for package in ("learned_opt", "meta_train", "tasks"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _told(shapes: str | None) -> str:
    return "not there" if shapes is None else f"of shapes {shapes}"


def _version(start: Mapping[str, Any]) -> str:
    number, revision = start["versions"].get("learned-opt", "unknown"), start["git"]
    return number if revision is None else f"{number}, revision {revision[:12]}"


def _write(run: Path, config: MetaTrainConfig, starts: Sequence[Any]) -> None:
    text = json.dumps({"config": configs.to_json(config), "starts": list(starts)}, indent=2) + "\n"
    partial = run / f"{CONFIG}.partial"
    partial.write_text(text)
    os.replace(partial, run / CONFIG)


def _begun(run: Path) -> bool:
    """Whether a start is recorded: before that there is nothing that another configuration could spoil."""
    return (run / CONFIG).exists() and bool(_read(run)["starts"])


def _check_contents(run: Path) -> None:
    if run.exists() and not run.is_dir():
        raise InputError(f"{run} is a file, expected a directory: choose another --out")
    if run.is_dir() and not (run / CONFIG).exists():
        ours = (LOCK, f"{CONFIG}.partial")
        others = sorted(path.name for path in run.iterdir() if path.name not in ours)
        if others:
            raise InputError(f"{run} holds {others[0]} but no {CONFIG}, so it is no run: choose another --out")


def _check_config(run: Path, config: MetaTrainConfig) -> None:
    if not (run / CONFIG).exists():
        return
    theirs = read_config(run)
    differences = configs.difference(theirs, config) if _begun(run) else []
    if differences:
        raise InputError(
            f"{run} was begun with another configuration: {'; '.join(differences)}. Repeat its settings to resume it "
            "(even its number of steps cannot change, the schedule depends on it), or choose another --out"
        )


def _read(run: Path) -> dict[str, Any]:
    path = run / CONFIG
    try:
        values = json.loads(path.read_text())
        if not isinstance(values["config"], dict) or not isinstance(values["starts"], list):
            raise TypeError("config is no object, or starts no list")
        return {"config": values["config"], "starts": values["starts"]}
    except FileNotFoundError as error:
        raise InputError(
            f"{run} is no run: it has no {CONFIG}; `learned-opt meta-train PRESET --out RUN` makes one"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): restore it, or name another run") from error
