"""A search for helm's constants over whole training runs: no windows, no truncation, ranks in place of losses.

    python benchmarks/whole_run_search.py --out search.npz [--family deep] [--tasks 18] [--generations 50]

Separable natural evolution strategies (Wierstra et al. 2014, arXiv:1106.4487) with mirrored samples. A generation draws
a horizon T, log-uniform, and `--per-generation` of the tasks; every candidate trains on each from one initialisation on
one sequence of batches, and is ranked by its final training loss, with a third of the weight by its final validation
loss. With z ~ N(0, I), candidates mu + s z and utilities u of the mean ranks:

    mu <- mu + rate s sum_i u_i z_i        s <- s exp(RATE_SCALE / 2 sum_i u_i (z_i^2 - 1))

What moves is named in `coordinates`: the constants that act, and the first-order response of the size of step to each
input. The file holds every generation and is gone on with; the last lines give the t-statistic of each coordinate's
gradient over generations, and of all of them together the mean square, which is 1 where there is only noise.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import Helm
from learned_opt.helm_inputs import INPUTS, LOG_STEPS, RANK
from learned_opt.helm_weights import Theta
from tasks import suites
from tasks.catalogue.entries import Library
from tasks.mixture import draw

POPULATION = 24
RATE_SCALE = 0.03
VALIDATION = 0.35
"""Weight of the rank in validation loss."""
HORIZONS = (300, 1500)
FLOOR = 1e-4
"""Share of a task's loss cap below which a loss counts as reached."""
NARROW, WIDE = 0.3, 2.0
"""Bounds of s, in units of where it starts."""


class Coordinate(NamedTuple):
    """A weight that moves."""

    part: str
    """Of theta: schedule, zero, step.w, step.b, mix.w, mix.b, own.w, own.b or out."""
    place: tuple[int, ...]
    scale: float
    """s at the start."""


def coordinates() -> list[Coordinate]:
    """All that move."""
    made = [Coordinate("schedule", (i,), s) for i, s in enumerate((0.1, 0.25, 0.15))]
    made += [Coordinate("zero", (i,), 0.15) for i in range(2)] + [Coordinate("step.b", (1,), 0.075)]
    made += [Coordinate("mix.b", (i,), s / 2) for i, s in enumerate((0.08, 0.15, 0.08, 0.08, 0.08, 0.08, 0.1, 0.03))]
    for rank in (RANK[1], RANK[3]):
        made += [Coordinate("mix.w", (rank, 6), 0.05), Coordinate("mix.w", (rank, 7), 0.015)]
    wide = {RANK[1]: 0.075, RANK[3]: 0.075, LOG_STEPS: 0.15}
    made += [Coordinate("step.w", (i, 1), wide.get(i, 0.025)) for i in range(INPUTS)]
    made += [Coordinate("step.w", (i, 0), 0.025) for i in (0, 1, 2, 3, 8)]
    # What the size of a step hears of agreement: the thresholds of the expert's two hidden units, and their weights.
    return made + [Coordinate(*x) for i in range(2) for x in (("own.b", (i,), 0.03), ("out", (i, 1), 0.4))]


def moved(theta: Theta, moves: list[Coordinate], x: Any) -> Theta:
    """Theta with x added to the coordinates."""
    step, mix = theta.step._asdict(), theta.mix._asdict()
    parts: dict[str, Any] = {"schedule": theta.schedule, "zero": theta.zero, "own.b": theta.own.b, "own.w": theta.own.w}
    parts["out"] = theta.out
    parts |= {f"step.{k}": v for k, v in step.items()} | {f"mix.{k}": v for k, v in mix.items()}
    for i, move in enumerate(moves):
        parts[move.part] = parts[move.part].at[move.place].add(x[i])
    layer = lambda old, name: old._replace(w=parts[f"{name}.w"], b=parts[f"{name}.b"])
    return theta._replace(
        schedule=parts["schedule"],
        zero=parts["zero"],
        step=layer(theta.step, "step"),
        mix=layer(theta.mix, "mix"),
        own=theta.own._replace(w=parts["own.w"], b=parts["own.b"]),
        out=parts["out"],
    )


STARTS = {"chosen": Helm().expert, "plain": Helm().init}
"""Where the search begins: at the constants chosen by hand, or before anything was chosen."""


def trained(task: Any, theta: Theta, key: Any, num_steps: Any) -> tuple[Any, Any]:
    """Final training and validation loss of a run."""
    start = task.init(jax.random.fold_in(key, 0))
    opt = Helm().transform(theta, num_steps=num_steps)

    def step(i: Any, carry: Any) -> Any:
        params, state, opt_state = carry
        k = jax.random.fold_in(key, i + 1)
        loss = lambda p: task.loss(p, state, task.batch(jax.random.fold_in(k, 0)), jax.random.fold_in(k, 1))
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = opt.update(gradient, opt_state, params, value=value)
        return optax.apply_updates(params, updates), state, opt_state

    params, state, _ = jax.lax.fori_loop(0, num_steps, step, (start.params, start.state, opt.init(start.params)))
    return task.evaluate(params, state, "train"), task.evaluate(params, state, "valid")


def utilities(scores: np.ndarray) -> np.ndarray:
    """u: of the best half of the candidates, by rank; their sum is zero."""
    order = np.argsort(np.argsort(scores))
    u = np.maximum(0.0, math.log(len(scores) / 2 + 1) - np.log(order + 1))
    return u / u.sum() - 1 / len(scores)


def report(moves: list[Coordinate], mu: np.ndarray, gradients: np.ndarray) -> None:
    """Print what moved most surely, and the t-statistics of all, from the gradients of at least two generations."""
    if len(gradients) < 2:
        return
    t = np.sqrt(len(gradients)) * gradients.mean(0) / gradients.std(0)
    for i in np.argsort(-np.abs(t))[:12]:
        print(f"{moves[i].part}{list(moves[i].place)}: t {t[i]:+.1f}, moved {mu[i]:+.4f}")
    print(json.dumps({"generations": len(gradients), "mean_square_of_t": float(np.mean(t * t))}))  # 1 is noise


def main() -> None:
    """Search, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a file NAME.npz; it is gone on with")
    parser.add_argument("--family", default="deep")
    parser.add_argument("--tasks", type=int, default=18)
    parser.add_argument("--per-generation", type=int, default=6)
    parser.add_argument("--generations", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0.15)
    parser.add_argument("--spread", type=float, default=1.0, help="factor on s at the start")
    parser.add_argument("--start", choices=tuple(STARTS), default="chosen")
    parser.add_argument("--horizons", type=int, nargs=2, default=HORIZONS)
    args = parser.parse_args()
    if args.out.suffix != ".npz":
        parser.error(f"--out {args.out}: expected a name that ends with .npz")
    moves = coordinates()
    theta = STARTS[args.start](jax.random.key(0))
    scale = args.spread * np.array([move.scale for move in moves])
    mu, s, gradients = np.zeros(len(moves)), scale, np.zeros((0, len(moves)))
    if args.out.exists():
        saved = np.load(args.out)
        mu, s, gradients = saved["mu"], saved["s"], saved["gradients"]
    tasks = draw(suites.family(args.family, library=Library(seed=0)), jax.random.key(77), args.tasks)
    run = jax.jit(jax.vmap(lambda t, x, k, n: trained(t, moved(theta, moves, x), k, n), (None, 0, None, None)))
    rank = lambda losses: np.argsort(np.argsort(losses)) / (POPULATION - 1) - 0.5
    for generation in range(len(gradients), args.generations):
        rng = np.random.default_rng((123, generation))
        half = rng.standard_normal((POPULATION // 2, len(moves)))
        z = np.concatenate([half, -half])
        low, high = map(math.log, args.horizons)
        num_steps = round(math.exp(float(rng.uniform(low, high))))
        scores = np.zeros(POPULATION)
        for i in rng.choice(len(tasks), args.per_generation, replace=False):
            key = jax.random.fold_in(jax.random.key(9), generation * 100 + int(i))
            cap = 10 * tasks[i].loss_cap
            for weight, losses in zip(
                (1.0, VALIDATION), run(tasks[i], jnp.asarray(mu + s * z, jnp.float32), key, num_steps), strict=True
            ):
                losses = np.nan_to_num(np.asarray(losses), nan=cap, posinf=cap)
                scores += weight * rank(np.log(np.clip(losses, 0, cap) + FLOOR * tasks[i].loss_cap))
        u = utilities(scores)
        g = u @ z
        mu, s = (
            mu + args.rate * s * g,
            np.clip(s * np.exp(RATE_SCALE / 2 * (u @ (z * z - 1))), NARROW * scale, WIDE * scale),
        )
        gradients = np.concatenate([gradients, g[None]])
        np.savez(args.out, mu=mu, s=s, gradients=gradients)
        print(
            f"generation {generation + 1}: {num_steps} steps, |mu / s_0| {np.linalg.norm(mu / scale):.2f}", flush=True
        )
    report(moves, mu, gradients)


if __name__ == "__main__":
    main()
