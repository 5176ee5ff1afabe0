"""Does an optimizer diverge where it was never trained: other scales, single examples, bfloat16, long training?

    python benchmarks/robustness.py WEIGHTS [--suite held-out-mini] [--steps 1000] [--seeds 3] [--only plain,...]

Every task of the suite as it is, with its weights divided by a random factor from 0.001 to 1000 (one for all, and one
a tensor), with batches of one example, with weights and data in bfloat16, told half and twice the number of steps, and
the first five tasks for 25 times as many steps. A run diverges when its loss is not finite or ends at twice what it
began with. Prints a line for each task, and JSON last: diverged runs of all, and the interquartile mean over tasks of
the ratio of final training losses to those of the task as it is (losses below a thousandth of the first count as that).
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import learned_opt
from tasks import suites
from tasks.augmentations.low_precision import LowPrecision
from tasks.augmentations.reduced_batch import ReducedBatch
from tasks.augmentations.reparametrised import Reparametrised

WAYS: dict[str, tuple[Callable[[Any], Any], float, float]] = {
    # name: change of the task, times as many steps, times as many that it is told
    "plain": (lambda task: task, 1.0, 1.0),
    "rescaled": (lambda task: Reparametrised(task, "global", (1e-3, 1e3)), 1.0, 1.0),
    "rescaled by tensor": (lambda task: Reparametrised(task, "tensor", (1e-3, 1e3)), 1.0, 1.0),
    "batch of 1": (lambda task: ReducedBatch(task, 1e-6), 1.0, 1.0),
    "bfloat16": (LowPrecision, 1.0, 1.0),
    "told half": (lambda task: task, 1.0, 0.5),
    "told twice": (lambda task: task, 1.0, 2.0),
    "25 times as long": (lambda task: task, 25.0, 25.0),
}


def program(release: Any, steps: int, told: int) -> Any:
    """(task, keys) -> losses before training and at its end, one for each key."""

    def one(task: Any, key: Any) -> Any:
        params, state = task.init(jax.random.fold_in(key, 0))
        opt = release.rule.transform(release.theta, num_steps=told)
        first = task.evaluate(params, state, "train")

        def step(carry: Any, t: Any) -> Any:
            params, state, opt_state = carry
            key_t = jax.random.fold_in(jax.random.fold_in(key, 1), t)
            batch = task.batch(jax.random.fold_in(key_t, 0))
            loss = jax.value_and_grad(task.loss, has_aux=True)
            (value, state), gradient = loss(params, state, batch, jax.random.fold_in(key_t, 1))
            updates, opt_state = opt.update(gradient, opt_state, params, value=value)
            return (optax.apply_updates(params, updates), state, opt_state), None

        (params, state, _), _ = jax.lax.scan(step, (params, state, opt.init(params)), jnp.arange(steps))
        return first, task.evaluate(params, state, "train")

    return jax.jit(jax.vmap(one, (None, 0)))


def main() -> None:
    """Train, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--suite", default="held-out-mini")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(WAYS))
    args = parser.parse_args()
    release = learned_opt.load_pretrained(args.weights)
    keys = jax.random.split(jax.random.key(0), args.seeds)
    found: dict[str, dict[str, Any]] = {}
    plain: dict[str, float] = {}
    for way in args.only.split(","):
        change, longer, told = WAYS[way]
        steps = round(longer * args.steps)
        train = program(release, steps, round(told * args.steps))
        lost, ratios = 0, []
        for task in suites.suite(args.suite)[: 5 if longer > 1 else None]:
            first, last = map(np.asarray, train(change(task), keys))
            bad = ~np.isfinite(last) | (last > 2 * first)
            level = float(np.mean(np.maximum(last, 1e-3 * first)))
            plain.setdefault(task.name, level)
            lost += int(bad.sum())
            ratios.append(level / plain[task.name])
            print(
                f"{way:20s} {task.name:28s} {np.mean(last):.4g}  {'' if not bad.any() else f'{bad.sum()} LOST'}",
                flush=True,
            )
        runs = len(ratios) * args.seeds
        mean = float(np.exp(stats.trim_mean(np.log(ratios), 0.25)))
        found[way] = {"diverged": lost, "runs": runs, "ratio_to_plain": round(mean, 4)}
    print(json.dumps({"weights": args.weights, "suite": args.suite, "steps": args.steps, **found}))


if __name__ == "__main__":
    main()
