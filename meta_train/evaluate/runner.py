"""The evaluation from the names to the tables."""

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

import learned_opt
from learned_opt.errors import InputError
from meta_train.errors import RunFailed
from meta_train.evaluate import store, table
from meta_train.evaluate.contenders import Contender, resolve_all
from meta_train.evaluate.judge import summarize
from meta_train.evaluate.store import Row, Store
from meta_train.evaluate.summary import Summary
from meta_train.evaluate.sweep import Sweep, sweep
from tasks import suites
from tasks.task import Task


def evaluate(
    optimizers: Sequence[str],
    suite: str,
    out: Path,
    *,
    steps: int = 200,
    seeds: int = 5,
    seed: int = 0,
    rates: int = 7,
) -> Summary:
    """Compare optimizers on the tasks of a suite; see `meta_train.evaluate.evaluate`."""
    for name, value, least, most in (
        ("steps", steps, 1, 2**31 - 1),
        ("seeds", seeds, 1, 10_000),
        ("rates", rates, 1, 25),  # half decades: more would leave the range of float32
        ("seed", seed, 0, 2**32 - 1),
    ):
        if not least <= value <= most:
            raise InputError(f"{name}: {value}, expected {least} to {most}")
    contenders = resolve_all(optimizers, rates=rates)
    tasks = suites.suite(suite)
    configuration = {
        "suite": suite,
        "tasks": [task.name for task in tasks],
        "steps": steps,
        "seeds": seeds,
        "seed": seed,
        "rates": rates,
        "optimizers": {c.name: c.identity() for c in contenders},
        "versions": versions(),
    }
    runs = {(task.name, c.name): len(c.trials) * seeds for task in tasks for c in contenders}
    try:
        with store.opened(out, configuration, runs) as results:
            for task in tasks:
                for contender in contenders:
                    if (task.name, contender.name) not in results.groups:
                        _run_group(results, task, contender, steps=steps, seeds=seeds, seed=seed)
            summary = summarize(
                {pair: results.groups[pair] for pair in runs},  # in the order asked, whatever the order they ran in
                configuration,
                compile_seconds=lambda task, name: _compile_seconds(out, task, name),
            )
            store.write_json(out / "summary.json", summary.as_json())
    except OSError as error:
        raise RunFailed(
            f"cannot write to {out} ({error.strerror}); what is finished is intact, the same command resumes"
        ) from error
    return summary


def versions() -> dict[str, str]:
    """What the numbers depend on besides the configuration."""
    packages = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax")}
    return {
        "learned-opt": learned_opt.__version__,
        **packages,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }


def _run_group(results: Store, task: Task, contender: Contender, *, steps: int, seeds: int, seed: int) -> None:
    swept = sweep(task, contender, steps=steps, seeds=seeds, seed=seed)
    curves = {**store.windows(swept.losses), "compile_seconds": np.float64(swept.compile_seconds)}
    results.add(rows(task.name, contender, swept), curves)
    n = len(contender.trials) * seeds
    print(
        f"{task.name} / {contender.name}: {n} runs of {steps} steps in {n * swept.seconds:.1f} s, "
        f"compiled in {swept.compile_seconds:.1f} s",
        file=sys.stderr,
        flush=True,
    )


def rows(task: str, contender: Contender, swept: Sweep) -> list[Row]:
    """The lines of results.jsonl for one optimizer on one task, trial by trial; a non-finite loss is null."""
    n_trials, n_seeds, steps = swept.losses.shape
    finite = np.isfinite(swept.losses)
    lines = []
    for trial in range(n_trials):
        settings: Mapping[str, float] = contender.trials[trial]
        for seed in range(n_seeds):
            losses = swept.losses[trial, seed].astype(np.float64)
            final_train, final_valid = (
                swept.final_train_loss[trial, seed],
                swept.final_valid_loss[trial, seed],
            )
            lost = np.flatnonzero(~finite[trial, seed])
            with np.errstate(invalid="ignore"):
                mean = _number(losses.mean())
            lines.append(
                {
                    "task": task,
                    "optimizer": contender.name,
                    "kind": contender.kind,
                    "trial": trial,
                    "learning_rate": settings.get("learning_rate"),
                    "seed": seed,
                    "steps": steps,
                    "mean_train_loss": mean,
                    "first_train_loss": _number(losses[0]),
                    "final_train_loss": _number(final_train),
                    "final_valid_loss": _number(final_valid),
                    "diverged": bool(lost.size or not np.isfinite(final_train) or not np.isfinite(final_valid)),
                    "diverged_at": int(lost[0]) if lost.size else None,
                    "seconds": swept.seconds,
                }
            )
    return lines


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _compile_seconds(out: Path, task: str, optimizer: str) -> float:
    with np.load(store.curves_path(out, task, optimizer)) as curves:
        return float(curves["compile_seconds"])


def show(summary: Summary) -> None:
    """Print the tables on standard output."""
    table.print_summary(summary, table.console())
