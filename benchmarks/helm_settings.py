"""Constants of helm compared on whole training runs, all settings of a task in one program.

    python benchmarks/helm_settings.py --out FILE.jsonl [--set agreement] [--suite validation] [--steps 200 1000]
    python benchmarks/helm_settings.py --out FILE.jsonl [--set longer] --small "perceptron, raw features" orbit

A setting changes a few weights of `Helm.expert`; every setting trains from the same initialisations on the same
batches. One JSON line a task, horizon and setting, with the final training and validation losses of all seeds; what
is in the file is not run again. The last line has for every setting and horizon, against the first setting, the
interquartile mean over tasks of the logarithm of the ratio of mean losses, and the tasks that are better and worse by
more than 0.2 %. Losses below `FLOOR` count as that. `--small` takes problems of `small_problems` and `unseen_problems`
in place of the suite, and reports what they report; `--real` those of `real_data`.

The results in helm_settings.jsonl were made while a bound on steps was in force that the rule no longer has, and those
of the set "decay" with another cosine; docs/meta_training.md says what both were. Helm then had no input G, and
until the set "eigenbasis" no eigenbasis.
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
import real_data
import small_problems
import unseen_problems
from scipy import stats
from whole_run_search import trained

from learned_opt import Helm
from learned_opt.helm_inputs import AGREEMENTS, GROWTH, SIGNAL, SLOPES
from learned_opt.helm_weights import DECAY, HEARD, SHARE, SIZE, Theta, Unit, hearing, late
from tasks import suites

FLOOR = 1e-3
ALONG = Unit({AGREEMENTS[1]: 1.0}, 0.2, 2.0)
"""Steps grow where 50 updates agree."""


def agreement(faster: float, above: float, slower: float = 0.0, below: float = 0.25) -> Callable[[Theta], Theta]:
    """Steps grow with the agreement of gradients over 50 updates, and shrink where 10 updates disagree."""
    units = (ALONG._replace(threshold=above, weight=faster), Unit({AGREEMENTS[0]: -1.0}, below, -slower))
    return lambda theta: hearing(theta, units)


def falling(slower: float, fallen: float) -> Callable[[Theta], Theta]:
    """Steps also shrink where 50 updates disagree and the loss does not fall, and where it has fallen far."""
    return longer(0.0, 0.5, 0.0, slower, fallen)


def longer(
    relief: float, slope: float, held: float, slower: float = 4.0, fallen: float = 0.5
) -> Callable[[Theta], Theta]:
    """They shrink less where longer weights would gain and where the loss falls; what is learned by heart decays."""
    quick = Unit({AGREEMENTS[0]: -1.0, GROWTH: -relief}, 0.25, -4.0)
    slow = Unit({AGREEMENTS[1]: -1.0, GROWTH: -relief} | dict.fromkeys(SLOPES[1:6], slope), 0.1, -slower)
    heart = Unit({GROWTH: 1.0}, 0.5, held, DECAY)
    return lambda theta: hearing(theta, (ALONG, quick, slow, HEARD[3]._replace(weight=-fallen), heart))


def constant(output: int, value: float) -> Callable[[Theta], Theta]:
    """What an output of the mixture is before any unit adds to it."""
    return lambda theta: theta._replace(mix=theta.mix._replace(b=theta.mix.b.at[output - SIZE - 1].set(value)))


def curved(always: float, weight: float) -> Callable[[Theta], Theta]:
    """The share of the eigenbasis: always, and where 50 updates disagree."""
    units = (*HEARD[:5], HEARD[5]._replace(weight=weight))
    return both(constant(SHARE, always), lambda theta: hearing(theta, units))


def decay(steps: float) -> Callable[[Theta], Theta]:
    """Decay, in steps."""
    return constant(DECAY, steps)


def by_heart(*units: Unit, above: float = 0.5, weight: float = 0.5) -> Callable[[Theta], Theta]:
    """Decay of what is learned by heart: where G is large, and what the units add."""
    known = HEARD[4]._replace(threshold=above, weight=weight)
    return lambda theta: hearing(theta, (*HEARD[:4], known, HEARD[5], *units))


def every(weight: float, slope: float) -> tuple[Unit, Unit]:
    """As `late`, of the S_0 of each tensor apart and as early in long runs as in short ones."""
    one, other = late(weight, slope, noise=0.0, threshold=0.3 - 1.65, longer=0.0, early=0.0)
    heard = lambda unit: unit._replace(factors=unit.factors | {SIGNAL[0]: 1.0})
    return heard(one), heard(other)


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
    "longer": {
        "as before": longer(0.0, 0.5, 0.0),
        "relieved by 3 G and a tenth of the fall": longer(3.0, 0.05, 0.0),
        "and decay of 0.3 above G of 0.5": longer(3.0, 0.05, 0.3),
        "and decay of 0.5 above G of 0.5": longer(3.0, 0.05, 0.5),
        "relieved by 3 G and a fifth of the fall, and decay of 0.5": longer(3.0, 0.1, 0.5),
    },
    "eigenbasis": {
        "as before": curved(0.0, 0.0),
        "always in the eigenbasis": curved(1.0, 0.0),
        "where 50 updates disagree by 0.1": curved(0.0, 5.0),
    },
    "by heart": {
        "as before": by_heart(),
        "decay 0.1": both(by_heart(), decay(0.1)),
        "above G of 0.15": by_heart(above=0.15, weight=0.2),
        "late": by_heart(late(0.2, 0.0, noise=0.0, threshold=0.3, longer=0.0, early=0.0)[0]),
        "late noise": by_heart(every(0.3, 0.0)[0]),
        "late noise 0.3, at most 20 G": by_heart(*every(0.3, 20.0)),
        "late noise 0.5, at most 10 G": by_heart(*every(0.5, 10.0)),
        "late noise 0.5, at most 20 G": by_heart(*every(0.5, 20.0)),
        "late noise 0.5 of all tensors, at most 20 G": by_heart(
            *late(0.5, noise=1.0, threshold=-1.35, longer=0.0, early=0.0)
        ),
        "late noise 0.7 of all tensors, at most 20 G": by_heart(
            *late(0.7, noise=1.0, threshold=-1.35, longer=0.0, early=0.0)
        ),
        "twice the logarithm of noise": by_heart(*late(0.7, threshold=-3.0, longer=0.0, early=0.0)),
        "and later in longer runs": by_heart(*late(0.7, threshold=-3.0, longer=0.25, early=0.0)),
        "not at the start, and a little later in longer runs": by_heart(*late(0.7)),
        "and half of it": by_heart(*late(0.35)),
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
                pairs = [(of.get((t, steps, setting), {}), of.get((t, steps, settings[0]), {})) for t in tasks]
                ratios = np.array(
                    [math.log(level(a[kind]) / level(b[kind])) for a, b in pairs if kind in a and kind in b]
                )
                if ratios.size:
                    found[f"{setting}, {steps} steps, {kind}"] = {
                        "iqm": round(float(stats.trim_mean(ratios, 0.25)), 4),
                        "mean": round(float(ratios.mean()), 4),
                        "better": int((ratios < -0.002).sum()),
                        "worse": int((ratios > 0.002).sum()),
                        "tasks": ratios.size,
                    }
    return found


def small_run(problem: small_problems.Problem, thetas: Theta, seeds: int) -> dict[str, np.ndarray]:
    """What is reported of each setting and seed."""
    of = lambda theta, seed: small_problems.trained(
        problem, lambda: Helm().transform(theta, num_steps=problem.steps), seed
    )
    run = jax.jit(jax.vmap(jax.vmap(of, (None, 0)), (0, None)))
    return {"train": np.asarray(run(thetas, jnp.arange(seeds)))}


def main() -> None:
    """Run, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=tuple(SETS), default="agreement")
    parser.add_argument("--suite", default="validation")
    parser.add_argument("--small", nargs="+", help="names of small problems")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="the tasks of real_data on the arrays there")
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
    of_suite = lambda task, thetas, steps: dict(zip(("train", "valid"), run(task, thetas, keys, steps), strict=True))
    if args.small:
        of = small_problems.problems() | unseen_problems.problems()
        wanted = [(x, of[x].steps, lambda thetas, p=of[x]: small_run(p, thetas, args.seeds)) for x in args.small]
    else:
        named = [*real_data.made(args.real)] if args.real else [(t.name, t) for t in suites.suite(args.suite)]
        tasks = named[args.part[0] :: args.part[1]]
        wanted = [(name, n, lambda x, t=t, n=n: of_suite(t, x, n)) for name, t in tasks for n in args.steps]
    for name, steps, runs in wanted:
        missing = [x for x in settings if (name, steps, x) not in done]
        if not missing:
            continue
        thetas = jax.tree.map(lambda *xs: jnp.stack(xs), *(settings[x](start) for x in missing))
        losses = {kind: np.asarray(found) for kind, found in runs(thetas).items()}
        with args.out.open("a") as file:
            for i, setting in enumerate(missing):
                each = {kind: found[i].tolist() for kind, found in losses.items()}
                lines.append({"task": name, "steps": steps, "setting": setting, **each})
                print(json.dumps(lines[-1]), file=file)
        print(name, steps, *np.round(losses["train"].mean(1), 5).tolist(), flush=True)
    for name, figures in (found := summary(lines, [*settings])).items():
        print(f"{name:55s} {figures}")
    suite = "small" if args.small else "real" if args.real else args.suite
    print(json.dumps({"suite": suite, "seeds": args.seeds, **found}))


if __name__ == "__main__":
    main()
