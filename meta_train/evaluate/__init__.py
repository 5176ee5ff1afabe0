"""Judging optimizers: `learned-opt evaluate`, and `evaluate` from Python.

Importing this package does not import JAX: the command line reads `args` and `names` from it.

    args          arguments of the command
    names         names of the baselines
    baselines     the baselines and their grids of rates
    contenders    names -> optimizers
    sweep         all runs of one optimizer on one task, one compiled program
    store         the directory of results
    statistics    intervals
    judge         figures and comparisons from the runs
    summary       their types, the contents of summary.json
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
    rates: int = 7,
) -> "Summary":
    """Train every task of a suite with every optimizer, and write `out`/results.jsonl and `out`/summary.json.

    The same call again resumes after an interruption, or only reads what is there.

    Args:
      optimizers: run directories, pretrained names, names of baselines.
      suite: name in `tasks.suites.SUITES`.
      out: directory of the results.
      steps: updates per training run.
      seeds: initialisations and batch sequences per trial, the same for every optimizer.
      seed: what they all derive from.
      rates: learning rates per baseline; learned optimizers have one trial.

    Raises:
      InputError: unknown or repeated names, bad numbers, or another configuration's results in `out`.
      RunFailed: results could not be written; what is finished is intact.
    """
    from meta_train.evaluate import runner

    return runner.evaluate(optimizers, suite, out, steps=steps, seeds=seeds, seed=seed, rates=rates)


def run(args: EvaluateArgs) -> int:
    """`learned-opt evaluate`: evaluate, print the tables, return the exit status."""
    from meta_train.evaluate import runner

    names = args.optimizers.split(",")
    summary = evaluate(
        names, args.suite, args.out, steps=args.steps, seeds=args.seeds, seed=args.seed, rates=args.rates
    )
    runner.show(summary)
    print(f"results: {args.out / 'results.jsonl'}, {args.out / 'summary.json'}")
    return 0
