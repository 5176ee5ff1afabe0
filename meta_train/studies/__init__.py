"""Published experiments on meta-gradient estimators, reproduced small: each is checked against stated figures.

A study is a module with `run() -> Result` and `figure(result) -> matplotlib figure`. Importing this package loads no
JAX; neither does `NAMES`.
"""

import importlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learned_opt.errors import InputError

NAMES = {
    "influence": "a linear system whose parameter looks useful at first and is not (Vicol et al. 2021)",
    "regression": "learning rates on a two-dimensional loss with many ripples (Vicol et al. 2021)",
    "lorenz": "parameters of a chaotic system (Li et al. 2023)",
    "correlation": "variance of PES and ES-Single where gradients of windows are correlated, and where they are not",
    "digits": "variance of PES and ES-Single for a learned optimizer of an MLP on digits",
}
"""Studies, with what each is about."""


@dataclass(frozen=True)
class Check:
    """A measured number beside what it must satisfy."""

    what: str
    value: float
    holds: bool
    expected: str


@dataclass(frozen=True)
class Result:
    """What a study found."""

    name: str
    checks: tuple[Check, ...]
    """In the order of the text."""
    curves: dict[str, Any] = field(default_factory=dict)
    """What the figure draws: lists of numbers by name."""
    settings: dict[str, Any] = field(default_factory=dict)


def run(names: Sequence[str], out: Path) -> list[Result]:
    """Run studies and write `NAME.json` and `NAME.png` of each into `out`.

    Raises:
      InputError: an unknown study, or a directory that cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    for name in names:
        if name not in NAMES:
            raise InputError(f"study {name!r}: expected one of {', '.join(NAMES)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass  # the first study takes minutes
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): choose another --out") from error
    results = []
    for name in dict.fromkeys(names):
        module = importlib.import_module(f"meta_train.studies.{name}")
        start = time.monotonic()
        result = module.run()
        seconds = round(time.monotonic() - start, 1)
        write(result, out, seconds=seconds)
        module.figure(result).savefig(out / f"{name}.png", dpi=120)
        results.append(result)
    return results


def write(result: Result, out: Path, *, seconds: float) -> None:
    """Write `NAME.json`: checks, curves and settings."""
    checks = [vars(check) for check in result.checks]
    values = {"study": result.name, "about": NAMES[result.name], "seconds": seconds, "settings": result.settings}
    text = json.dumps(values | {"checks": checks, "curves": result.curves}, indent=1)
    (out / f"{result.name}.json").write_text(text + "\n")
