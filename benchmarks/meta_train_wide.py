"""Meta-training on a mixture of task families against meta-training on each of its tasks alone.

    python benchmarks/meta_train_wide.py [--family wide] [--samples 12] [--rounds 10]

An outer step averages the meta-gradients of all its tasks in one program. Here the same tasks are also advanced one
by one, each by a program of its own with the same estimator and rule (ES-Single, 8 pairs, window 20, small_fc). If
the mixture cost nothing beyond its tasks, its step would take the sum of theirs. Programs run in turn in one process,
and ratios are medians over rounds. The last line is JSON:

    ratio               sum of the times of the single tasks / time of the step of the mixture: the inner steps per
                        second of the mixture over those of its tasks, weighted by their own costs (target: 0.7)
    inner_steps_per_second
    first_call_seconds  of the mixture: compilation of all its tasks, and one step
    milliseconds        per task alone
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from meta_train import outer
from meta_train.config import (
    EstimatorConfig,
    HorizonConfig,
    MetaOptimizerConfig,
    MetaTrainConfig,
    TasksConfig,
)
from meta_train.outer import Experiment
from meta_train.trainer import compile_step


def stepper(experiment: Experiment) -> Callable[[], float]:
    """Seconds of one outer step, at each call of the next."""
    state = experiment.init()
    advance = compile_step(experiment, state)

    def run() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(advance(state, experiment.problems))
        return time.perf_counter() - start

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="wide")
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    config = MetaTrainConfig(
        tasks=TasksConfig(args.family, args.samples),
        horizon=HorizonConfig(20, 200),
        estimator=EstimatorConfig("es-single", pairs=8, window=20, sigma=0.01),
        meta_optimizer=MetaOptimizerConfig(1e-3, 0),
        steps=1000,
    )
    mixture = outer.build(config)
    start = time.perf_counter()
    programs: dict[str, Any] = {"mixture": stepper(mixture)}
    programs["mixture"]()
    first_call = time.perf_counter() - start
    for problem in mixture.problems:
        programs[problem.task.name] = stepper(replace(mixture, problems=(problem,)))
        programs[problem.task.name]()
    rounds = [{name: run() for name, run in programs.items()} for _ in range(args.rounds)]
    median = {name: statistics.median(times[name] for times in rounds) for name in programs}
    single = [name for name in programs if name != "mixture"]
    print(
        json.dumps(
            {
                "benchmark": "meta_train_wide",
                "family": args.family,
                "samples": args.samples,
                "device": jax.devices()[0].device_kind,
                "ratio": round(statistics.median(sum(t[n] for n in single) / t["mixture"] for t in rounds), 3),
                "inner_steps_per_second": round(mixture.inner_steps / median["mixture"]),
                "first_call_seconds": round(first_call, 1),
                "milliseconds": {name: round(1e3 * median[name], 1) for name in single},
            }
        )
    )


if __name__ == "__main__":
    main()
