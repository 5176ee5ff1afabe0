"""Cost of one meta-gradient estimate, beside the bare unroll of the same particles.

    python benchmarks/estimators.py [--rounds 15] [--rule small_fc] [--estimators es-single,pes,…]

8 antithetic pairs of a rule train the digits MLP 64-32-10, batch 128, window 50, horizon 1000. Bare: as many particles
as the estimator steps (16; 24 with mean states; 8 of backpropagation and forward mode), each with its own weights made
beforehand, in the same scan over the same data: no noise, no credit, no gradient. Programs run in one process in turn;
ratios are medians over neighbours.

`--noise` measures instead what low-rank noise is for: 16 members multiply 12 rows by a 1024 x 2048 matrix of their own,
with noise drawn in the program. The last line is JSON:

    ratio_NAME          seconds of an estimate / seconds of the bare unroll (target for dense noise: at most 1.15)
    ratio_low_rank      dense noise / low-rank noise, seconds (target: at least 10)
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import low_rank, rules
from meta_train import estimators
from meta_train.config import EstimatorConfig
from meta_train.estimators.clock import Clock, Phases, Timetable
from meta_train.horizon import LogUniform
from meta_train.noise import Dense, LowRank
from meta_train.problem import TaskProblem
from tasks import suites

PAIRS, WINDOW, HORIZON, SIGMA = 8, 50, 1000, 0.01
KINDS = (
    "es-single", "pes", "truncated-es", "guided", "forward", "truncated-backprop", "pes-analytic", "mix",
)  # fmt: skip
STATES = {"truncated-es": 3, "guided": 3, "pes-analytic": 3, "mix": 3, "forward": 1, "truncated-backprop": 1}
"""Problem states of a pair, where they are not two."""


def estimate(problem: TaskProblem, theta: Any, kind: Any) -> Callable[[], Any]:
    """Makes one estimate and waits for it."""
    config = EstimatorConfig(kind, PAIRS, WINDOW, SIGMA)
    estimator = estimators.build(config, max_horizon=HORIZON)
    state = estimator.init(problem, theta, jax.random.key(1))

    @partial(jax.jit, donate_argnums=1)
    def advance(problem: TaskProblem, state: Any) -> Any:
        gradient, state, metrics = estimator.estimate(problem, theta, state)
        return state, (gradient, metrics)

    def run() -> Any:
        nonlocal state
        state, rest = advance(problem, state)
        return jax.block_until_ready(rest)

    return run


def bare(problem: TaskProblem, theta: Any, states: int) -> Callable[[], Any]:
    """Runs N x `states` particles with fixed weights through a window and waits; episodes begin as the others' do."""
    timetable = Timetable(PAIRS, WINDOW, None, Phases.SPREAD)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(PAIRS))
    noise = Dense(SIGMA)
    draws = jax.vmap(lambda key: noise.draw(key, jnp.int32(0), jnp.int32(1), theta))(keys)
    perturb = jax.vmap(jax.vmap(noise.perturb, (None, None, 0)), (None, 0, None))
    thetas = jax.jit(perturb)(theta, draws, jnp.asarray([1.0, -1.0, 0.0][:states]))
    shapes = jax.eval_shape(problem.reset, theta, jax.random.key(0))
    particles = jax.tree.map(lambda x: jnp.zeros((PAIRS, states, *x.shape), x.dtype), shapes)
    clock = timetable.start()

    @partial(jax.jit, donate_argnums=1)
    def advance(problem: TaskProblem, carry: tuple[Clock, Any], thetas: Any) -> Any:
        clock, particles = carry
        plan = timetable.plan(problem, clock, keys)

        def step(particles: Any, now: Any) -> Any:
            tick, episode_key, step_key = now
            mask = lambda x: jnp.reshape(tick.begins, (-1,) + (1,) * (x.ndim - 1))

            def begin() -> Any:
                new = jax.vmap(jax.vmap(problem.reset, (0, None)))(thetas, episode_key)
                return jax.tree.map(lambda n, o: jnp.where(mask(o), n, o), new, particles)

            particles = jax.lax.cond(jnp.any(tick.begins), begin, lambda: particles)
            return jax.vmap(jax.vmap(problem.step, (0, 0, None)))(thetas, particles, step_key)

        particles, loss = jax.lax.scan(step, particles, (plan.ticks, plan.episode_keys, plan.step_keys))
        return (plan.clock, particles), jnp.mean(loss)

    carry = (clock, particles)

    def run() -> Any:
        nonlocal carry
        carry, loss = advance(problem, carry, thetas)
        return jax.block_until_ready((carry, loss))

    return run


def product(noise: Any) -> Callable[[], Any]:
    """16 members multiply 12 rows by a 1024 x 2048 matrix, each perturbed by its own noise."""
    w = {"w": jax.random.normal(jax.random.key(0), (1024, 2048)) / 32}
    x = jax.random.normal(jax.random.key(1), (16, 12, 1024))

    @jax.jit
    def multiply(block: Any) -> Any:
        def member(key: Any, x: Any) -> Any:
            draw = noise.draw(key, jnp.int32(0), block, w)
            return low_rank.matmul(x, noise.perturb(w, draw, jnp.float32(1.0))["w"])

        return jax.vmap(member)(jax.random.split(jax.random.key(2), 16), x)

    block = 0

    def run() -> Any:
        nonlocal block
        block += 1
        return jax.block_until_ready(multiply(jnp.int32(block)))

    return run


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(programs: dict[str, Callable[[], Any]], rounds: int) -> list[dict[str, float]]:
    """Seconds of every program in every round, after two calls to warm up."""
    for run in programs.values():
        seconds(run)
        seconds(run)
    return [{name: seconds(run) for name, run in programs.items()} for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rule", default="small_fc")
    parser.add_argument("--estimators", default=",".join(KINDS))
    parser.add_argument("--noise", action="store_true")
    args = parser.parse_args()
    report: dict[str, Any] = {"benchmark": "estimators", "device": jax.devices()[0].device_kind}
    if args.noise:
        times = measure({"dense": product(Dense(SIGMA)), "low_rank": product(LowRank(SIGMA))}, args.rounds)
        median = {name: statistics.median(t[name] for t in times) for name in times[0]}
        report |= {f"milliseconds_{name}": round(1e3 * value, 2) for name, value in median.items()}
        report["ratio_low_rank"] = round(statistics.median(t["dense"] / t["low_rank"] for t in times), 1)
    else:
        rule = rules.make_rule(args.rule)
        problem = TaskProblem(suites.task("digits_mlp_32"), rule, LogUniform(HORIZON, HORIZON))
        theta = rule.init(jax.random.key(0))
        report["rule"] = args.rule
        for kind in args.estimators.split(","):
            states = STATES.get(kind, 2)
            times = measure(
                {"bare": bare(problem, theta, states), "estimate": estimate(problem, theta, kind)}, args.rounds
            )
            name = kind.replace("-", "_")
            report[f"ratio_{name}"] = round(statistics.median(t["estimate"] / t["bare"] for t in times), 3)
            print(kind, report[f"ratio_{name}"], flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
