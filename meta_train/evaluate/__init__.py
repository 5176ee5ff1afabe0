"""Judging optimizers: `learned-opt evaluate`, and `evaluate` from Python.

Importing this package does not import JAX: the command line reads `args` and `names` from it.

    args          arguments of the command
    names         names of the baselines
    baselines     the baselines, their rates and weight decays
    transforms    those that optax lacks
    budget        trials: rates, schedules, weight decays
    contenders    names -> optimizers
    sweep         all runs of one optimizer on one task, one compiled program
    store         the directory of results
    curves        means of losses over windows of steps
    archive       makes the results of baselines that come with the package
    archived      what they hold for an evaluation
    reuse         what an evaluation takes of them
    seen          tasks that a learned optimizer may have been trained on
    velodrome     speed-ups over published curves
    overhead      what an update costs beside Adam
    statistics    intervals
    selection     the trial that counts, and two optimizers on a task
    speedup       ratios of steps
    aggregate     intervals over tasks
    profile       performance profiles
    overall       an optimizer over all tasks
    judge         figures and comparisons from the runs
    summary       their types, the contents of summary.json (those of a task: results)
    table         tables on standard output
    runner        the whole
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meta_train.evaluate.args import EvaluateArgs

if TYPE_CHECKING:
    from meta_train.evaluate.summary import Summary

__all__ = ["EvaluateArgs", "evaluate", "run"]


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
) -> "Summary":
    """Train every task of a suite with every optimizer, and write `out`/results.jsonl and `out`/summary.json.

    The same call again resumes after an interruption, or only reads what is there; with other optimizers it adds
    them, and summarises those asked for.

    Args:
      optimizers: run directories, pretrained names, names of baselines.
      suite: name in `tasks.suites.SUITES`.
      out: directory of the results.
      steps: updates per training run.
      seeds: initialisations and batch sequences per trial, the same for every optimizer.
      seed: what they all derive from.
      trials: 1 to 42, per baseline; learned optimizers have one. See `meta_train.evaluate.budget`.
      jobs: optimizers trained at a time, without influence on the results; None: the CPU cores, at most 8, and 1 on
        accelerators.
      rerun_baselines: train baselines also where their archived results fit.
      overhead: also measure the cost of updates and steps, once per optimizer; see `meta_train.evaluate.overhead`.
      velodrome_baselines: published curves, for the suite `velodrome` alone: its rows then have `velodrome_speedup`,
        and the summary has means and intervals of them.
      archive: folder of archived results; None: that of the package.

    Raises:
      InputError: unknown or repeated names, bad numbers, or another configuration's results in `out`.
      RunFailed: results could not be written; what is finished is intact.
    """
    from meta_train.evaluate import runner

    return runner.evaluate(
        optimizers,
        suite,
        out,
        steps=steps,
        seeds=seeds,
        seed=seed,
        trials=trials,
        jobs=jobs,
        rerun_baselines=rerun_baselines,
        overhead=overhead,
        velodrome_baselines=velodrome_baselines,
        archive=archive,
    )


def run(args: EvaluateArgs) -> int:
    """`learned-opt evaluate`: evaluate, print the tables, return the exit status."""
    from meta_train.evaluate import runner

    summary = evaluate(
        args.optimizers.split(","),
        args.suite,
        args.out,
        steps=args.steps,
        seeds=args.seeds,
        seed=args.seed,
        trials=args.trials,
        jobs=args.jobs,
        rerun_baselines=args.rerun_baselines,
        overhead=args.overhead,
        velodrome_baselines=args.velodrome_baselines,
    )
    runner.show(summary)
    print(f"results: {args.out / 'results.jsonl'}, {args.out / 'summary.json'}")
    return 0
