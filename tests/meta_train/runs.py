"""The command line as tests use it: a debug run short enough to repeat, in this process and in others."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from meta_train.metrics import TIMINGS

ROOT = Path(__file__).resolve().parents[2]
STEPS = 150
EVERY = 7


def command(out: Path, *, steps: int = STEPS, every: int = EVERY) -> list[str]:
    """A run in which most checkpoints fall into the middle of episodes (8 to 20 inner steps, 5 per outer step)."""
    return ["meta-train", "debug", "--steps", str(steps), "--checkpoint-every", str(every), "--out", str(out)]


def start(args: list[str]) -> subprocess.Popen[str]:
    """The program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "meta_train", *args],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Return as soon as the run has written metrics of outer step `step`."""
    while process.poll() is None:
        last = metrics(out)[-1:]
        if last and last[0]["step"] >= step:
            return
        time.sleep(0.005)
    raise AssertionError(f"ended early with {process.returncode}: {process.communicate()}")


def metrics(out: Path) -> list[dict]:
    """Whole lines of metrics.jsonl."""
    path = out / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def result(out: Path) -> tuple[bytes, list[dict]]:
    """What must not depend on interruptions: the weights, and the metrics without their timings."""
    lines = [{name: value for name, value in line.items() if name not in TIMINGS} for line in metrics(out)]
    return (out / "weights.safetensors").read_bytes(), lines
