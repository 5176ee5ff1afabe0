"""Inner steps per second of a whole outer step, beside the floor: the same training by Adam with no meta-gradient.

    python benchmarks/meta_train_throughput.py [--rounds 30] [--rule small_fc] [--rank R]

Outer step: 8 antithetic pairs of a rule (16 particles) by ES-Single, window 50, on the digits MLP 64-32-10 with
batch 128; data, noise, unroll, gradient and meta-update in one program. Floor: 16 particles with optax.adam in the
same scan over the same data, beginning new episodes as the outer step does. Both run in one process in turn, and
ratios are medians over pairs of neighbours. The last line is JSON:

    inner_steps_per_second, floor_inner_steps_per_second   both signs counted
    ratio               time of an outer step / time of the floor (target: at most 2 for small_fc, 2.5 for celo,
                        12 for velo with --rank 1, low-rank noise)
    first_call_ratio    seconds until the first result / the same for the floor (target: at most 3)
    peak_megabytes      largest memory of the process (target: at most 600)
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt import rules
from learned_opt.rules.base import Rule
from meta_train import estimators
from meta_train.horizon import LogUniform
from meta_train.noise import Dense, LowRank, Noise
from meta_train.problem import TaskProblem
from tasks import suites

PAIRS, WINDOW, HORIZON = 8, 50, 1000


@dataclass(frozen=True)
class AdamFloor:
    """optax.adam in the place of a rule."""

    name = "adam"

    def init(self, key: Any) -> Any:
        del key
        return ()

    def transform(self, theta: Any, *, num_steps: Any = None) -> optax.GradientTransformationExtraArgs:
        del theta, num_steps
        return optax.with_extra_args_support(optax.adam(1e-2))


def outer_step(rule: Rule, noise: Noise) -> Callable[[], Any]:
    """Runs one outer step and waits for it."""
    problem = TaskProblem(suites.task("digits_mlp_32"), rule, LogUniform(HORIZON, HORIZON))
    estimator = estimators.es_single(noise, pairs=PAIRS, window=WINDOW)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))

    @partial(jax.jit, donate_argnums=1)
    def advance(problem: TaskProblem, state: Any) -> Any:
        theta, meta_optimizer, particles = state
        gradient, particles, metrics = estimator.estimate(problem, theta, particles)
        updates, meta_optimizer = optimizer.update(gradient, meta_optimizer, theta)
        return (optax.apply_updates(theta, updates), meta_optimizer, particles), metrics

    theta = rule.init(jax.random.key(0))
    state = (theta, optimizer.init(theta), estimator.init(problem, theta, jax.random.key(1)))

    def run() -> Any:
        nonlocal state
        state, metrics = advance(problem, state)
        return jax.block_until_ready((state, metrics))

    return run


def floor() -> Callable[[], Any]:
    """Runs the 16 particles with Adam over one window and waits for them."""
    problem = TaskProblem(suites.task("digits_mlp_32"), AdamFloor(), LogUniform(HORIZON, HORIZON))
    particles_of = lambda f: jax.vmap(jax.vmap(f, (0, None)), (None, 0))
    signs = jnp.arange(2.0)

    @partial(jax.jit, donate_argnums=1)
    def advance(problem: TaskProblem, state: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            particles, t = carry
            keys = jax.vmap(lambda pair: jax.random.fold_in(jax.random.key(0), pair))(jnp.arange(PAIRS))
            begin = lambda: particles_of(lambda sign, key: problem.reset((), key))(signs, keys)
            particles = jax.lax.cond(t % HORIZON == 0, begin, lambda: particles)
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
            over_signs = jax.vmap(problem.step, (None, 0, None))
            particles, loss = jax.vmap(over_signs, (None, 0, 0))((), particles, step_keys)
            return (particles, t + 1), loss

        return jax.lax.scan(step, state, None, length=WINDOW)

    shapes = jax.eval_shape(problem.reset, (), jax.random.key(0))
    state = (jax.tree.map(lambda x: jnp.zeros((PAIRS, 2, *x.shape), x.dtype), shapes), jnp.int32(0))

    def run() -> Any:
        nonlocal state
        state, losses = advance(problem, state)
        return jax.block_until_ready((state, losses))

    return run


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rule", default="small_fc")
    parser.add_argument("--rank", type=int, help="of the noise on large matrices; dense noise by default")
    args = parser.parse_args()
    noise = Dense(0.01) if args.rank is None else LowRank(0.01, args.rank)
    jax.block_until_ready(suites.task("digits_mlp_32"))
    seconds(lambda: jnp.ones(3) + 1)  # start the back end before anything is timed
    programs = {"floor": floor(), "outer_step": outer_step(rules.make_rule(args.rule), noise)}
    first = {name: seconds(run) for name, run in programs.items()}
    times = [{name: seconds(run) for name, run in programs.items()} for _ in range(args.rounds)]
    median = {name: statistics.median(t[name] for t in times) for name in programs}
    steps = 2 * PAIRS * WINDOW
    print(
        json.dumps(
            {
                "benchmark": "meta_train_throughput",
                "rule": args.rule,
                "rank": args.rank,
                "device": jax.devices()[0].device_kind,
                "inner_steps_per_second": round(steps / median["outer_step"]),
                "floor_inner_steps_per_second": round(steps / median["floor"]),
                "ratio": round(statistics.median(t["outer_step"] / t["floor"] for t in times), 3),
                "first_call_seconds": round(first["outer_step"], 2),
                "floor_first_call_seconds": round(first["floor"], 2),
                "first_call_ratio": round(first["outer_step"] / first["floor"], 2),
                "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
