"""Constants of helm compared on whole training runs, all settings of a task in one program.

    python benchmarks/helm_settings.py --out FILE.jsonl [--set agreement] [--suite validation] [--steps 200 1000]

A setting changes a few weights of `Helm.expert`; every setting trains from the same initialisations on the same
batches. One JSON line a task, horizon and setting, with the final training and validation losses of all seeds; what
is in the file is not run again. The last line has for every setting and horizon, against the first setting, the
interquartile mean over tasks of the logarithm of the ratio of mean losses, and the tasks that are better and worse by
more than 0.2 %. Losses below `FLOOR` count as that.

The results in helm_settings.jsonl were made while a bound on steps was in force that the rule no longer has, and those
of the set "decay" with another cosine; docs/meta_training.md says what both were.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from whole_run_search import trained

from learned_opt import Helm
from learned_opt.helm_inputs import AGREEMENTS, SLOPES
from learned_opt.helm_weights import HEARD, Theta, Unit, hearing
from tasks import suites

FLOOR = 1e-3
DECAY = 7
"""Place of the decay among the outputs of `mix`."""
SILENT = Unit({0: 0.0}, 1.0, 0.0)


def agreement(faster: float, above: float, slower: float = 0.0, below: float = 0.25) -> Callable[[Theta], Theta]:
    """Steps grow with the agreement of gradients over 50 updates, and shrink where 10 updates disagree."""
    units = (Unit({AGREEMENTS[1]: 1.0}, above, faster), Unit({AGREEMENTS[0]: -1.0}, below, -slower), SILENT, SILENT)
    return lambda theta: hearing(theta, units)


def falling(slower: float, late: float) -> Callable[[Theta], Theta]:
    """Steps also shrink where 50 updates disagree and the loss does not fall, and where it has fallen far."""
    against = Unit({AGREEMENTS[1]: -1.0} | dict.fromkeys(SLOPES[1:6], 0.5), 0.1, -slower)
    units = (HEARD[0], HEARD[1], against, Unit(dict.fromkeys(SLOPES[3:], -1.0), 1.0, -late))
    return lambda theta: hearing(theta, units)


def decay(steps: float) -> Callable[[Theta], Theta]:
    """Decay, in steps."""
    return lambda theta: theta._replace(mix=theta.mix._replace(b=theta.mix.b.at[DECAY].set(steps)))


def both(one: Callable[[Theta], Theta], other: Callable[[Theta], Theta]) -> Callable[[Theta], Theta]:
    """One after the other."""
    return lambda theta: other(one(theta))


SETS: dict[str, dict[str, Callable[[Theta], Theta]]] = {
    "agreement": {
        "as before": agreement(0.0, 1.0),
        "faster 4 above 0.2": agreement(4.0, 0.2),
        "faster 4 above 0.2, slower 2 below -0.25": agreement(4.0, 0.2, 2.0),
        "faster 4 above 0.2, slower 4 below -0.25": agreement(4.0, 0.2, 4.0),
        "faster 4 above 0.2, slower 4 below -0.1": agreement(4.0, 0.2, 4.0, 0.1),
        "faster 4 above 0.1, slower 2 below -0.25": agreement(4.0, 0.1, 2.0),
        "faster 2 above 0.2, slower 2 below -0.25": agreement(2.0, 0.2, 2.0),
        "faster 8 above 0.2, slower 4 below -0.25": agreement(8.0, 0.2, 4.0),
    },
    "decay": {f"decay {x}": both(agreement(4.0, 0.2, 2.0), decay(x)) for x in (0.05, 0.1, 0.2, 0.3)},
    "decay and agreement": {
        f"faster {k} above 0.2, slower 4 below -0.25, decay {x}": both(agreement(k, 0.2, 4.0), decay(x))
        for k, x in ((4.0, 0.05), (4.0, 0.085), (4.0, 0.1), (2.0, 0.05), (2.0, 0.1))
    },
    "falling": {
        "as before": agreement(2.0, 0.2, 4.0),
        "slower 4 below -0.1 of 50 updates where the loss does not fall": falling(4.0, 0.0),
        "and half of a fall beyond 1": falling(4.0, 0.5),
    },
}
"""What was compared, in sets; the first of a set is what the others are held against."""


def summary(lines: list[dict[str, Any]], settings: list[str]) -> dict[str, Any]:
    """Every setting against the first."""
    found: dict[str, Any] = {}
    level = lambda losses: max(float(np.mean(np.nan_to_num(losses, nan=1e9, posinf=1e9))), FLOOR)
    of = {(x["task"], x["steps"], x["setting"]): x for x in lines}
    tasks = [*dict.fromkeys(x["task"] for x in lines)]
    for steps in sorted({x["steps"] for x in lines}):
        for setting in settings[1:]:
            for kind in ("train", "valid"):
                pairs = [(of.get((t, steps, setting)), of.get((t, steps, settings[0]))) for t in tasks]
                ratios = np.array([math.log(level(a[kind]) / level(b[kind])) for a, b in pairs if a and b])
                if ratios.size:
                    found[f"{setting}, {steps} steps, {kind}"] = {
                        "iqm": round(float(stats.trim_mean(ratios, 0.25)), 4),
                        "mean": round(float(ratios.mean()), 4),
                        "better": int((ratios < -0.002).sum()),
                        "worse": int((ratios > 0.002).sum()),
                        "tasks": ratios.size,
                    }
    return found


def main() -> None:
    """Run, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=tuple(SETS), default="agreement")
    parser.add_argument("--suite", default="validation")
    parser.add_argument("--steps", type=int, nargs="+", default=[1000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="I N: tasks I, I + N, I + 2 N, …")
    args = parser.parse_args()
    settings = SETS[args.set]
    lines = [json.loads(x) for x in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(x["task"], x["steps"], x["setting"]) for x in lines}
    start = Helm().expert(jax.random.key(0))
    keys = jax.random.split(jax.random.key(31), args.seeds)
    over_seeds = jax.vmap(trained, (None, None, 0, None))
    run = jax.jit(jax.vmap(over_seeds, (None, 0, None, None)))
    for task in suites.suite(args.suite)[args.part[0] :: args.part[1]]:
        for steps in args.steps:
            missing = [name for name in settings if (task.name, steps, name) not in done]
            if not missing:
                continue
            thetas = jax.tree.map(lambda *xs: jnp.stack(xs), *(settings[name](start) for name in missing))
            train, valid = map(np.asarray, run(task, thetas, keys, steps))
            with args.out.open("a") as file:
                for i, name in enumerate(missing):
                    losses = {"train": train[i].tolist(), "valid": valid[i].tolist()}
                    lines.append({"task": task.name, "steps": steps, "setting": name, **losses})
                    print(json.dumps(lines[-1]), file=file)
            print(task.name, steps, *np.round(train.mean(1), 5).tolist(), flush=True)
    for name, figures in (found := summary(lines, [*settings])).items():
        print(f"{name:55s} {figures}")
    print(json.dumps({"suite": args.suite, "seeds": args.seeds, **found}))


if __name__ == "__main__":
    main()
