"""A run that is killed and stopped again and again, beside one that is left alone: nothing may differ at the end.

    python benchmarks/faults.py [--kills 100] [--terms 20] [--seed 0] [--steps 1200]

A small run (small_fc on Rosenbrock's function of 8 numbers, which compiles in seconds, by PES with 2 pairs) that writes
a checkpoint every 5 outer steps and a line of metrics every step. Each SIGKILL or SIGTERM falls at a random moment,
while the program starts, trains or writes a checkpoint, of which one is always being written; then the same command
resumes. The last line is JSON:

    kills, terms            signals that hit a running program
    during_checkpoints      kills that left a checkpoint half written
    lost_steps              outer steps without a line of metrics at the end (target: 0)
    duplicated_steps        outer steps with more than one (target: 0)
    wrong_steps             lines that differ from those of the undisturbed run, times apart (target: 0)
    unreadable_checkpoints  checkpoints that could not be resumed from (target: 0)
    late_stops              SIGTERMs that were not answered with a checkpoint and status 143 (target: 0)
    equal                   the final weights are those of the undisturbed run, bit for bit (target: true)
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from meta_train.metrics import TIMINGS

PATIENCE_SECONDS = 300
"""Within which a program must have ended or got on."""


def command(out: Path, steps: int) -> list[str]:
    return [
        "meta-train", "debug", "--out", str(out), "--steps", str(steps),
        "--checkpoint-every", "5", "--metrics-every", "1", "--distributed", "off",
    ]  # fmt: skip


def launch(arguments: list[str], log: Path) -> int:
    """The program in a process of its own, forked from this one, which has done the imports; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        from meta_train import cli, outer
        from tasks import suites

        outer.draw = lambda *_: [suites.task("rosenbrock_8")]
        status = cli.main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(status)


def wait(child: int, seconds: float = PATIENCE_SECONDS) -> int | None:
    """Exit status as of `subprocess`; None if it has not ended in time."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.002)


def lines(out: Path) -> list[dict[str, Any]]:
    """Whole lines of metrics, without their times."""
    path = out / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


def size(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def strike(out: Path, arguments: list[str], log: Path, number: int, moment: random.Random) -> int | None:
    """Start or resume, and send a signal at a random moment; the exit status.

    One signal in eight falls while the program starts, the others within half a second of its first new outer step.
    """
    child = launch(arguments, log)
    if moment.random() < 1 / 8:
        time.sleep(moment.uniform(0, 4))
    else:
        before, deadline = size(out), time.monotonic() + PATIENCE_SECONDS
        # A resumed run first drops the lines beyond its checkpoint.
        while size(out) <= before and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            before = min(before, size(out))
            if time.monotonic() > deadline:
                break
            time.sleep(0.002)
        time.sleep(moment.uniform(0, 0.5))
    os.kill(child, number)
    return wait(child)


def campaign(folder: Path, kills: int, terms: int, seed: int, steps: int) -> dict[str, Any]:
    moment = random.Random(seed)
    alone, out, log = folder / "alone", folder / "run", folder / "log"
    if wait(launch(command(alone, steps), log), 10 * PATIENCE_SECONDS) != 0:
        raise SystemExit(log.read_text()[-2000:])
    numbers = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    moment.shuffle(numbers)
    hits = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    halves = unreadable = late = 0
    for i, number in enumerate(numbers):
        status = strike(out, command(out, steps), log, number, moment)
        hits[number] += status == -number or status == 128 + number
        halves += any("tmp" in path.name for path in (out / "checkpoints").glob("*"))
        unreadable += status == 1
        # While Python starts there is nothing to save, and SIGTERM ends the program as it ends any other.
        late += number == signal.SIGTERM and status not in (143, -signal.SIGTERM, 0)
        if (i + 1) % 10 == 0:
            print(
                f"{i + 1} of {len(numbers)} signals, outer step {len(lines(out))} of {steps}",
                file=sys.stderr,
                flush=True,
            )
    status = wait(launch(command(out, steps), log), 10 * PATIENCE_SECONDS)
    if status != 0:
        raise SystemExit(f"the last start ended with {status}: {log.read_text()[-2000:]}")
    unreadable += len(list((out / "checkpoints").glob("damaged-*")))
    got, want = lines(out), lines(alone)
    seen = [row["step"] for row in got]
    weights = [(each / "weights.safetensors").read_bytes() for each in (out, alone)]
    return {
        "kills": hits[signal.SIGKILL],
        "terms": hits[signal.SIGTERM],
        "during_checkpoints": halves,
        "lost_steps": len(set(range(1, steps + 1)) - set(seen)),
        "duplicated_steps": len(seen) - len(set(seen)),
        "wrong_steps": sum(a != b for a, b in zip(got, want, strict=False)),
        "unreadable_checkpoints": unreadable,
        "late_stops": late,
        "starts": len(json.loads((out / "config.json").read_text())["starts"]),
        "equal": weights[0] == weights[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        # Every start compiles the same programs: they are kept, so that most of the time is spent in the run.
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        import meta_train.trainer  # noqa: F401  before the first fork; it computes nothing

        result = campaign(folder, args.kills, args.terms, args.seed, args.steps)
    print(json.dumps({"benchmark": "faults", "seed": args.seed, "steps": args.steps} | result))


if __name__ == "__main__":
    main()
