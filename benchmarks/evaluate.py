"""What one program for all trials gains over the trials one after another.

    python benchmarks/evaluate.py [--trials 42] [--seeds 3] [--steps 200] [--optimizer adamw] [--rounds 3]

Both train the same runs of a task: `meta_train.evaluate.sweep.train`, vmapped over trials and seeds, and the same
function jitted with the settings as arguments, called once per trial and seed. Compilation and evaluation are left
out. The two are timed in turn, in one process; a ratio is the median over rounds. The last line is JSON:

    ratio           task -> time one after another / time of the vmapped program (target: 4)
    seconds         task -> the two times, medians
    valid_share     task -> time of the validation losses on the way / time of the vmapped program
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from meta_train.evaluate import contenders
from meta_train.evaluate import sweep as sweeping
from tasks import suites
from tasks.task import Task, Variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Least:
    """Least squares in 16 dimensions, batch 32: a step costs next to nothing."""

    x: jax.Array
    y: jax.Array
    name: str = field(default="least_squares_16", metadata={"static": True})
    loss_cap: float = field(default=100.0, metadata={"static": True})

    def init(self, key: Array) -> Variables:
        return Variables({"w": jax.random.normal(key, (16,))}, {})

    def batch(self, key: Array) -> Any:
        rows = jax.random.randint(key, (32,), 0, len(self.x))
        return self.x[rows], self.y[rows]

    def loss(self, params: Any, state: Any, batch: Any, key: Array) -> tuple[Array, Any]:
        x, y = batch
        return jnp.mean((x @ params["w"] - y) ** 2), state

    def evaluate(self, params: Any, state: Any, split: str) -> Array:
        return self.loss(params, state, (self.x, self.y), jax.random.key(0))[0]


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def measure(task: Task, optimizer: str, trials: int, seeds: int, steps: int, rounds: int) -> dict[str, float]:
    """Medians: seconds of both ways, their ratio, and the share of the validation losses."""
    contender = contenders.baseline(optimizer, trials)
    columns = {name: jnp.array(column) for name, column in contender.columns().items()}
    variables, keys = sweeping.initialise(task, sweeping.seed_keys(task, seeds, 0))

    def one(task: Task, settings: Any, variables: Any, key: Array) -> Any:
        return sweeping.train(task, contender, None, settings, variables, key, steps=steps)

    alone = jax.jit(one)
    together = jax.jit(jax.vmap(jax.vmap(one, (None, 0, None, None)), (None, None, 0, 0)))
    settings = [{name: column[i] for name, column in columns.items()} for i in range(trials)]
    starts = [(jax.tree.map(lambda x, i=i: x[i], variables), keys[i]) for i in range(seeds)]

    def one_by_one() -> None:
        for trial in settings:
            for start in starts:
                jax.block_until_ready(alone(task, trial, *start))

    vmapped = lambda: together(task, columns, variables, keys)
    _, kept = jax.block_until_ready(vmapped())
    way = jax.tree.map(lambda x: x[:, :, :-1], kept)
    valid = jax.jit(lambda task, way: sweeping.evaluate(task, way)[0])
    jax.block_until_ready((alone(task, settings[0], *starts[0]), valid(task, way)))
    times = [(seconds(one_by_one), seconds(vmapped), seconds(lambda: valid(task, way))) for _ in range(rounds)]
    return {
        "ratio": statistics.median(a / b for a, b, _ in times),
        "one_by_one": statistics.median(a for a, _, _ in times),
        "vmapped": statistics.median(b for _, b, _ in times),
        "valid_share": statistics.median(c / b for _, b, c in times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=42)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    x = jax.random.normal(jax.random.key(0), (1024, 16))
    tasks = (*suites.suite("digits"), Least(x, jnp.sum(x, axis=1)))
    found = {
        task.name: measure(task, args.optimizer, args.trials, args.seeds, args.steps, args.rounds) for task in tasks
    }
    print(
        json.dumps(
            {
                "benchmark": "evaluate",
                "device": jax.devices()[0].device_kind,
                **vars(args),
                "ratio": {name: round(m["ratio"], 2) for name, m in found.items()},
                "seconds": {name: [round(m["one_by_one"], 3), round(m["vmapped"], 3)] for name, m in found.items()},
                "valid_share": {name: round(m["valid_share"], 3) for name, m in found.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
