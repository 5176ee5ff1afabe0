"""The evaluation from the names to the tables."""

import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import learned_opt
from learned_opt.errors import InputError
from meta_train.errors import RunFailed
from meta_train.evaluate import archived, budget, curves, store, table, velodrome
from meta_train.evaluate.contenders import Contender, resolve_all
from meta_train.evaluate.judge import summarize
from meta_train.evaluate.overhead import measure, read_costs
from meta_train.evaluate.reuse import described, take_archived
from meta_train.evaluate.seen import trained_on
from meta_train.evaluate.store import Row, Store
from meta_train.evaluate.summary import Overhead, Summary
from meta_train.evaluate.sweep import Sweep, sweep
from tasks import suites
from tasks.longer import steps_of
from tasks.task import Task

PUBLISHED = "velodrome"
"""The suite whose tasks have published curves."""


class Asked(NamedTuple):
    """What is to be run."""

    steps: int
    """Updates per training run; tasks of `tasks.longer` take a multiple."""
    seeds: int
    """Training runs per trial."""
    seed: int
    """What they derive from."""


def evaluate(
    optimizers: Sequence[str],
    suite: str,
    out: Path,
    *,
    steps: int = 200,
    seeds: int = 5,
    seed: int = 0,
    trials: int = 7,
    jobs: int | None = None,
    rerun_baselines: bool = False,
    overhead: bool = False,
    velodrome_baselines: Path | None = None,
    archive: Path | None = None,
) -> Summary:
    """Compare optimizers on the tasks of a suite; see `meta_train.evaluate.evaluate`."""
    jobs = default_jobs() if jobs is None else jobs
    if isinstance(optimizers, str):
        raise InputError(f"optimizers: {optimizers!r}, expected a list of names: [{optimizers!r}]")
    for name, value, least, most in (
        ("steps", steps, 1, 2**31 - 1),
        ("seeds", seeds, 1, 10_000),
        ("trials", trials, 1, max(budget.BUDGETS)),
        ("seed", seed, 0, 2**32 - 1),
        ("jobs", jobs, 1, 1024),
    ):
        if not least <= value <= most:
            raise InputError(f"{name}: {value}, expected {least} to {most}")
    contenders = resolve_all(optimizers, trials=trials)
    if velodrome_baselines is not None and suite != PUBLISHED:
        raise InputError(
            f"velodrome-baselines: suite {suite!r} has no published curves, expected --suite {PUBLISHED}; leave "
            "--velodrome-baselines out"
        )
    published = None if velodrome_baselines is None else velodrome.envelope(velodrome_baselines)
    tasks = suites.suite(suite)
    asked = Asked(steps, seeds, seed)
    configuration = {
        "suite": suite,
        "tasks": [task.name for task in tasks],
        "fingerprints": {task.name: archived.fingerprint(task) for task in tasks},
        **asked._asdict(),
        "trials": trials,
        "optimizers": {c.name: c.identity(steps) for c in contenders},
        "versions": versions(),
    }
    seen = trained_on(contenders, tasks, _say)
    pairs = [(task, contender) for task in tasks for contender in contenders]
    subjects = {task.name: described(task) for task in tasks}
    usable = lambda rows: not (rerun_baselines and rows[0]["source"] == "archive")
    try:
        with store.opened(out, configuration, usable=usable, subjects=subjects) as results:
            missing = [(t, c) for t, c in pairs if (t.name, c.name) not in results.groups]
            if not rerun_baselines:
                missing = take_archived(results, missing, configuration, archive or archived.folder(), _say)
            for task, contender, swept in sweeps(missing, asked, jobs):
                _add(results, task, contender, swept)
            groups = {(t.name, c.name): results.groups[t.name, c.name] for t, c in pairs}  # in the order asked
            if published is not None:
                results.amend({pair: _with_speed_ups(rows, published) for pair, rows in groups.items()})
                groups = {pair: results.groups[pair] for pair in groups}
            curves_of = lambda task, name: store.read_curves(out, task, name)
            seconds = lambda task, name: float(curves_of(task, name)["compile_seconds"])
            costs = _overheads(out, contenders, tasks if overhead else ())
            summary = summarize(groups, configuration, compile_seconds=seconds, curves=curves_of, overhead=costs)
            summary = replace(summary, trained_on=seen)
            store.write_json(out / "summary.json", summary.as_json())
    except OSError as error:
        raise RunFailed(
            f"cannot write to {out} ({error.strerror}); what is finished is intact, the same command resumes"
        ) from error
    return summary


def default_jobs() -> int:
    """Threads that train: one per CPU core, at most 8, because each holds data and programs; one on accelerators."""
    return min(os.cpu_count() or 1, 8) if jax.default_backend() == "cpu" else 1


def sweeps(pairs: Sequence[tuple[Task, Contender]], asked: Asked, jobs: int) -> Iterator[tuple[Task, Contender, Sweep]]:
    """The sweep of each pair, `jobs` at a time, as they are done.

    A small program does not fill two cores, and compilation is sequential for the most part.
    """
    run = lambda task, contender: sweep(task, contender, **asked._asdict() | {"steps": steps_of(task, asked.steps)})
    if jobs == 1 or len(pairs) < 2:
        for task, contender in pairs:
            yield task, contender, run(task, contender)
        return
    pool = ThreadPoolExecutor(jobs)
    stop: BaseException | None = None
    futures = {pool.submit(run, *pair): pair for pair in pairs}
    try:
        while futures:
            done = ()
            try:
                done, _ = wait(futures, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt as interrupt:
                if stop is not None:
                    raise
                stop = interrupt
            for future in done:
                task, contender = futures.pop(future)
                if (error := future.exception()) is None:
                    yield task, contender, future.result()
                else:
                    stop = stop or error
            if stop is not None:  # What is under way is waited for, and not lost.
                futures = {future: pair for future, pair in futures.items() if not future.cancel()}
        if stop is not None:
            raise stop
    finally:
        pool.shutdown(cancel_futures=True)


def versions() -> dict[str, str]:
    """What the numbers depend on besides the configuration."""
    packages = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax")}
    return {
        "learned-opt": learned_opt.__version__,
        **packages,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }


def _with_speed_ups(rows: Sequence[Row], published: velodrome.Envelope) -> list[Row]:
    speed_up = lambda row: velodrome.speed_up(published, row["task"], row["final_train_loss"], row["steps"])
    return [row | {"velodrome_speedup": None if row["diverged"] else speed_up(row)} for row in rows]


def _add(results: Store, task: Task, contender: Contender, swept: Sweep) -> None:
    scalars = {name: np.array(getattr(swept, name)) for name in ("compile_seconds", "state_bytes", "param_bytes")}
    valid = {"valid_loss": swept.valid_losses, "valid_step": swept.valid_steps}
    results.add(rows(task.name, contender, swept), {**curves.windows(swept.losses), **valid, **scalars})
    n, steps = swept.final_train_loss.size, swept.losses.shape[-1]
    seconds = f"{n * swept.seconds:.1f} s, compiled in {swept.compile_seconds:.1f} s"
    _say(f"{task.name} / {contender.name}: {n} runs of {steps} steps in {seconds}")


def _overheads(out: Path, contenders: Sequence[Contender], tasks: Sequence[Task]) -> dict[str, Overhead]:
    """Costs of the contenders, those in overhead.json and, where tasks are given, those measured now."""
    path = out / "overhead.json"
    there = read_costs(path) if path.exists() else {}
    missing = [c for c in contenders if c.name not in there]
    if tasks and missing:
        there |= measure(missing, tasks)
        store.write_json(path, {name: asdict(cost) for name, cost in there.items()})
    return {c.name: there[c.name] for c in contenders if c.name in there}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def rows(task: str, contender: Contender, swept: Sweep) -> list[Row]:
    """The lines of results.jsonl for one optimizer on one task, trial by trial; a non-finite loss is null."""
    n_trials, n_seeds, steps = swept.losses.shape
    finite = np.isfinite(swept.losses)
    lines = []
    for trial in range(n_trials):
        settings: Mapping[str, float] = contender.trials[trial]
        for seed in range(n_seeds):
            losses = swept.losses[trial, seed].astype(np.float64)
            final_train, final_valid = swept.final_train_loss[trial, seed], swept.valid_losses[trial, seed, -1]
            lost = np.flatnonzero(~finite[trial, seed])
            at = int(lost[0]) if lost.size else None
            with np.errstate(invalid="ignore"):
                mean = _number(losses.mean())
            lines.append(
                {
                    "task": task,
                    "optimizer": contender.name,
                    "kind": contender.kind,
                    "trial": trial,
                    "learning_rate": settings.get("learning_rate"),
                    "schedule": budget.SCHEDULES[int(settings["schedule"])] if settings else None,
                    "weight_decay": settings.get("weight_decay"),
                    "seed": seed,
                    "steps": steps,
                    "mean_train_loss": mean,
                    "first_train_loss": _number(losses[0]),
                    "final_train_loss": _number(final_train),
                    "final_valid_loss": _number(final_valid),
                    "diverged": store.diverged(_number(losses[0]), _number(final_train), _number(final_valid), at),
                    "diverged_at": at,
                    "seconds": swept.seconds,
                    "source": "run",
                }
            )
    return lines


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def show(summary: Summary) -> None:
    """Print the tables on standard output."""
    table.print_summary(summary, table.console())
