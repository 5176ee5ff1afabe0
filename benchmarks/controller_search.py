"""A search for what helm's size of step should hear: two hidden units and the linear response to every input.

    python benchmarks/controller_search.py --out search.npz [--generations 60]

Separable natural evolution strategies as in `whole_run_search`, over whole runs of the problems of `small_problems`, of
three networks on raw features, and of tasks drawn from `wide-plain` and `deep`, with three equations. A generation
draws a number of each and a length for each run; candidates train from one initialisation on one sequence of batches.
Their score is a sum over runs of

    w clip(log(l + e) - median over candidates, -1.5, 1.5)

with w = 1 for problems and 3 for tasks, where settings differ less; e is a tenth of what tuned Adam reaches on a
problem, since beyond that nothing is worth trading for, and 1e-4 of the cap of a task. The validation loss of a task
counts as a third of its training loss. The file holds every generation and is gone on with.
"""

import argparse
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_problems import Problem, cross_entropy, layers, perceptron, problems, rows
from whole_run_search import Coordinate, moved, report, trained, utilities

from learned_opt import Helm
from learned_opt.helm_inputs import AGREEMENTS, LOG_STEPS, SLOPES
from learned_opt.helm_weights import HEARD, Theta, Unit, hearing
from tasks import suites
from tasks.catalogue.entries import Library
from tasks.catalogue.makers import equation
from tasks.families.pinn import PINN
from tasks.mixture import draw

POPULATION = 24
RATE, RATE_SCALE = 0.25, 0.03
PER_KIND = {"problem": 8, "task": 5}
WORKERS = 2
SPREAD = {0: 0.05, 1: 0.1, 2: 0.1, 3: 0.02, 4: 0.02, 5: 0.02, 6: 0.04, 8: 0.06, 10: 0.04, 16: 0.06} | dict.fromkeys(
    SLOPES, 0.12
)
"""Inputs that units hear, and s at the start of their weights."""
TUNED = {
    "logistic, matrix": 0.0384, "logistic, raw features": 0.1, "linear, vector": 1e-6, "linear, bias of 1000": 0.1,
    "scalar from -3 to 3": 1e-6, "vector of 0.001 to 1000": 1.56, "embedding": 1e-4, "factorisation": 1.3e-5,
    "perceptron": 1.8e-3, "perceptron, raw targets": 100.0, "perceptron, raw features": 0.078, "rare events": 9.6e-4,
    "orbit": 2.7e-5, "gated residual net": 3.3e-3, "raw, relu": 0.7, "raw, tanh": 0.5, "raw, deep": 0.27,
}  # fmt: skip
"""Losses of tuned Adam or AdamW, or what is as good as zero; problems with a loss that may be negative are left out."""


def coordinates() -> list[Coordinate]:
    """All that move."""
    made = [Coordinate("own.w", (i, unit), s) for unit in range(2) for i, s in SPREAD.items()]
    made += [Coordinate("step.w", (i, 1), s / 5) for i, s in SPREAD.items()]
    made += [Coordinate("own.b", (0,), 0.04), Coordinate("own.b", (1,), 0.04)]
    made += [Coordinate("out", (0, 1), 0.4), Coordinate("out", (1, 1), 1.0), Coordinate("step.b", (1,), 0.05)]
    made += [
        Coordinate("mix.w", (LOG_STEPS, 7), 0.03),
        Coordinate("mix.b", (0,), 0.04),
        Coordinate("mix.b", (7,), 0.01),
    ]
    return [*made, Coordinate("schedule", (0,), 0.08)]


def start() -> Theta:
    """The expert with two hidden units, as before this search told what else they should hear."""
    against = Unit({AGREEMENTS[1]: -1.0} | dict.fromkeys(SLOPES[1:4], 0.5), 0.1, -8.0)
    units = (HEARD[0], against)
    return hearing(Helm().expert(jax.random.key(0)), units)


@cache
def tasks() -> list[Any]:
    """Tasks of the search; none is in `validation`."""
    of = lambda name, n: draw(suites.family(name, library=Library(seed=0)), jax.random.key(78), n)
    nets = (
        PINN("heat", 0.1, (20, 20), "tanh"),
        PINN("burgers", 0.05, (16, 16, 16), "tanh"),
        PINN("heat", 0.4, (24,), "gelu"),
    )
    return [
        *of("wide-plain", 10),
        *of("deep", 8),
        *(equation(net)(Library(seed=0), f"equation {i}") for i, net in enumerate(nets)),
    ]


def raw() -> dict[str, Problem]:
    """Classes told by a perceptron of features whose scales go from 0.1 to 1,000, given as they are."""
    made: dict[str, Problem] = {}
    nets = {"raw, relu": (jax.nn.relu, 1), "raw, tanh": (jnp.tanh, 1), "raw, deep": (jax.nn.relu, 3)}
    for seed, (name, (activation, depth)) in enumerate(nets.items()):
        k_scales, k_means, k_data, k_net = jax.random.split(jax.random.key(seed), 4)
        scales = 10.0 ** jax.random.uniform(k_scales, (12,), minval=-1.0, maxval=3.0)
        normal = jax.random.normal(k_data, (400, 12))
        data = (normal + 2.0 * jax.random.normal(k_means, (12,))[None]) * scales[None]
        labels = jnp.argmax(perceptron(layers(k_net, 12, 32, 3), normal), 1)

        def loss(p: Any, k: Any, data: Any = data, labels: Any = labels, activation: Any = activation) -> Any:
            x, y = rows(k, data, labels)
            for w, b in p[:-1]:
                x = activation(x @ w + b)
            return cross_entropy(x @ p[-1][0] + p[-1][1], y)

        made[name] = Problem(lambda k, depth=depth: layers(k, 12, *[48] * depth, 3), loss)
    return made


@cache
def runner(kind: str, which: Any) -> Any:
    """(thetas' coordinates [n, d], key, number of steps) -> losses [n, 1 or 2]."""
    moves, theta = coordinates(), start()
    if kind == "task":
        task = tasks()[which]
        one = lambda x, key, n: jnp.stack(trained(task, moved(theta, moves, x), key, n))
        return jax.jit(jax.vmap(one, (0, None, None)))
    problem = (problems() | raw())[which]

    def one(x: Any, key: Any, n: Any) -> Any:
        opt = Helm().transform(moved(theta, moves, x), num_steps=n)
        params = problem.init(jax.random.fold_in(key, 0))

        def step(i: Any, carry: Any) -> Any:
            params, state, total = carry
            value, gradient = jax.value_and_grad(problem.loss)(params, jax.random.fold_in(key, i + 1))
            updates, state = opt.update(gradient, state, params, value=value)
            return optax.apply_updates(params, updates), state, total + jnp.where(i >= n - n // 20, value, 0.0)

        return jax.lax.fori_loop(0, n, step, (params, opt.init(params), 0.0))[2][None] / (n // 20)

    return jax.jit(jax.vmap(one, (0, None, None)))


def score(kind: str, which: Any, x: np.ndarray, seed: int, n: int) -> np.ndarray:
    """What a run says of every candidate; lower is better."""
    losses = np.asarray(runner(kind, which)(jnp.asarray(x, jnp.float32), jax.random.key(seed), n))
    floor = 1e-4 * float(tasks()[which].loss_cap) if kind == "task" else 0.1 * TUNED[which]
    logs = np.log(np.nan_to_num(losses, nan=1e9, posinf=1e9) + floor)
    logs = np.clip(logs - np.median(logs, 0)[None], -1.5, 1.5)
    return 3.0 * (logs @ np.array([1.0, 0.35])) if kind == "task" else logs[:, 0]


def main() -> None:
    """Search, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a file NAME.npz; it is gone on with")
    parser.add_argument("--generations", type=int, default=60)
    args = parser.parse_args()
    if args.out.suffix != ".npz":
        parser.error(f"--out {args.out}: expected a name that ends with .npz")
    moves = coordinates()
    scale = np.array([move.scale for move in moves])
    mu, s, gradients = np.zeros(len(moves)), scale.copy(), np.zeros((0, len(moves)))
    if args.out.exists():
        saved = np.load(args.out)
        mu, s, gradients = saved["mu"], saved["s"], saved["gradients"]
    names, count = list(TUNED), len(tasks())
    context = multiprocessing.get_context("spawn")
    workers = [ProcessPoolExecutor(1, mp_context=context) for _ in range(WORKERS)]
    for generation in range(len(gradients), args.generations):
        rng = np.random.default_rng((124, generation))
        half = rng.standard_normal((POPULATION // 2, len(moves)))
        z = np.concatenate([half, -half])
        runs = [("problem", i) for i in rng.choice(len(names), PER_KIND["problem"], replace=False)]
        runs += [("task", i) for i in rng.choice(count, PER_KIND["task"], replace=False)]
        futures = []
        for kind, i in runs:
            low, high = (300, 1500) if kind == "problem" else (200, 2000)
            n = round(math.exp(rng.uniform(math.log(low), math.log(high))))
            which = names[i] if kind == "problem" else int(i)
            futures.append(workers[i % WORKERS].submit(score, kind, which, mu + s * z, int(rng.integers(2**31)), n))
        scores = np.stack([f.result() for f in futures])
        u = utilities(scores.sum(0))
        g = u @ z
        mu = mu + RATE * s * g
        s = np.clip(s * np.exp(RATE_SCALE / 2 * (u @ (z * z - 1))), 0.3 * scale, 2.0 * scale)
        gradients = np.concatenate([gradients, g[None]])
        np.savez(args.out, mu=mu, s=s, gradients=gradients)
        print(f"generation {generation + 1}: |mu / s_0| {np.linalg.norm(mu / scale):.2f}", flush=True)
    report(moves, mu, gradients)


if __name__ == "__main__":
    main()
