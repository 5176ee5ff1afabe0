"""The measurements of a run: `metrics.jsonl`, which is the record, and TensorBoard's copy of it."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import tensorboardX

from learned_opt.errors import InputError
from meta_train.run_directory import METRICS, TENSORBOARD

TIMINGS = ("seconds", "outer_steps_per_second", "inner_steps_per_second")
"""Fields of a line that differ between two runs of one configuration; all others are the same, bit for bit."""


class MetricLog:
    """Writes one line per interval of outer steps, going on from a checkpoint."""

    def __init__(self, run: Path, *, after: int, inner_steps: int) -> None:
        """Drop what was written beyond the outer step `after`, and go on from there.

        Args:
          run: directory.
          after: outer step that the run resumes from, 0 at first.
          inner_steps: of one outer step, all particles counted.
        """
        kept = _lines_until(run / METRICS, after)
        partial = run / f"{METRICS}.partial"
        partial.write_text("".join(line + "\n" for line in kept))
        os.replace(partial, run / METRICS)
        self._file = (run / METRICS).open("a")
        self._board = tensorboardX.SummaryWriter(str(run / TENSORBOARD), purge_step=after + 1)
        self._inner_steps = inner_steps
        self._seconds_before = json.loads(kept[-1]).get("seconds", 0.0) if kept else 0.0
        self._started = self._last_time = time.monotonic()
        self._last_step = after

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()
        self._file.close()

    @property
    def seconds(self) -> float:
        """Time spent on outer steps by all starts of this run."""
        return self._seconds_before + time.monotonic() - self._started

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add the line of the interval that ends with outer step `step`.

        Args:
          step: counted from 1.
          metrics: means over the interval, scalars.
        """
        now = time.monotonic()
        rate = (step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        values = {name: _json_number(value) for name, value in metrics.items()} | {
            "seconds": round(self.seconds, 3),
            "outer_steps_per_second": round(rate, 3),
            "inner_steps_per_second": round(rate * self._inner_steps, 1),
        }
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Put all lines on disk: a checkpoint never outlives the lines before it."""
        self._file.flush()
        os.fsync(self._file.fileno())


def _json_number(value: Any) -> float | None:
    """JSON has no infinity and no NaN."""
    return float(value) if math.isfinite(value) else None


def _lines_until(path: Path, step: int) -> list[str]:
    """Whole lines up to outer step `step`; a run that was killed may have left half a line, and lines beyond it.

    Raises:
      InputError: a line that others follow cannot be read.
    """
    kept: list[str] = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise InputError(
                f"{path} line {number} is no line of metrics: mend it or move the file away, then repeat the command; "
                "the checkpoints are intact"
            ) from error
        kept.append(line.decode())
    return kept
