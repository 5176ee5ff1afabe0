"""Toy regression: two learning rates, of the start and of the end, on a loss with ripples.

Vicol, Metz, Sohl-Dickstein 2021 (arXiv:2112.13835), section 5.2; Vicol 2023 (arXiv:2304.11153). Inner loss
f(x) = sqrt(x0^2 + 5) - sqrt 5 + sin^2(x1) exp(-5 x0^2) + |x1 - 100| / 4, x = (1, 1) at first, 100 steps of gradient
descent with a rate that goes from exp(theta0) to exp(theta1); objective the sum of losses after the steps. Windows of
10, 100 particles with sigma 0.3 (truncated ES: 1), Adam 1e-2 from theta = (-4, -4), where the objective is 2487.8; the
best of a fine grid is 553.9. What sees only a window lowers the rate too early.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train import estimators
from meta_train.estimators.clock import Phases
from meta_train.noise import Dense
from meta_train.studies import Check, Result
from meta_train.studies.problems import Unrolled

HORIZON, WINDOW, PAIRS, SIGMA, RATE = 100, 10, 50, 0.3, 1e-2
STEPS, EVERY = 2000, 20
SEEDS = (3, 5, 7)


def inner_loss(x: Any) -> Any:
    """f."""
    ripple = jnp.sin(x[1]) ** 2 * jnp.exp(-5.0 * x[0] ** 2)
    return jnp.sqrt(x[0] ** 2 + 5.0) - np.sqrt(5.0) + ripple + 0.25 * jnp.abs(x[1] - 100.0)


def schedule() -> Unrolled:
    """The problem; the state is (x, t)."""

    def advance(theta: Any, state: Any, key: Any) -> Any:
        del key
        x, t = state
        part = t.astype(theta.dtype) / HORIZON
        rate = jnp.exp(theta[0]) * (1.0 - part) + jnp.exp(theta[1]) * part
        x = x - rate * jax.grad(inner_loss)(x)
        return (x, t + 1), inner_loss(x)

    return Unrolled(lambda theta, key: (jnp.ones((2,), theta.dtype), jnp.int32(0)), advance, HORIZON)


def objective(theta: Any) -> Any:
    """Sum of losses of an episode, without noise."""
    problem = schedule()
    start = problem.begin(theta, None)
    return jnp.sum(jax.lax.scan(lambda s, _: problem.advance(theta, s, None), start, None, length=HORIZON)[1])


def methods() -> dict[str, Any]:
    """Estimators by name."""
    lock: dict[str, Any] = {"window": WINDOW, "phases": Phases.LOCKSTEP}
    return {
        "PES": estimators.pes(Dense(SIGMA), pairs=PAIRS, **lock),
        "ES-Single": estimators.es_single(Dense(SIGMA), pairs=PAIRS, **lock),
        "truncated ES": estimators.truncated_es(Dense(1.0), pairs=PAIRS, **lock),
        "truncated backpropagation": estimators.truncated_backprop(pairs=1, **lock),
    }


@partial(jax.jit, static_argnums=0)
def train(estimator: Any, key: Any) -> Any:
    """Objective before training and after every EVERY steps."""
    problem, theta, adam = schedule(), jnp.asarray([-4.0, -4.0]), optax.adam(RATE)

    def one(carry: Any, _: Any) -> Any:
        theta, opt, state = carry
        gradient, state, _ = estimator.estimate(problem, theta, state)
        updates, opt = adam.update(gradient, opt, theta)
        return (optax.apply_updates(theta, updates), opt, state), None

    def some(carry: Any, _: Any) -> Any:
        carry, _ = jax.lax.scan(one, carry, None, length=EVERY)
        return carry, objective(carry[0])

    start = (theta, adam.init(theta), estimator.init(problem, theta, key))
    return jnp.concatenate([objective(theta)[None], jax.lax.scan(some, start, None, length=STEPS // EVERY)[1]])


def run() -> Result:
    """Train with every method and seed."""
    with jax.enable_x64(True):
        curves = {
            name: [np.asarray(train(estimator, jax.random.key(seed))).tolist() for seed in SEEDS]
            for name, estimator in methods().items()
        }
    best = {name: [min(values) for values in runs] for name, runs in curves.items()}
    worst = lambda name: Check(f"best objective of {name}, worst seed", (v := max(best[name])), v <= 600, "at most 600")
    least = lambda name, bound: Check(
        f"best objective of {name}, best seed", (v := min(best[name])), v >= bound, f"at least {bound}"
    )
    first = curves["PES"][0][0]
    return Result(
        "regression",
        (
            Check("objective at the start", first, abs(first - 2487.769) < 1e-3, "2487.769"),
            worst("PES"),
            worst("ES-Single"),
            least("truncated ES", 1000),
            least("truncated backpropagation", 2000),
        ),
        curves,
        {"pairs": PAIRS, "window": WINDOW, "sigma": SIGMA, "rate": RATE, "steps": STEPS, "seeds": SEEDS},
    )


def figure(result: Result) -> Any:
    """Objective against outer steps, all seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, runs) in enumerate(result.curves.items()):
        for j, values in enumerate(runs):
            axes.plot(np.arange(len(values)) * EVERY, values, color=f"C{i}", label=name if j == 0 else None)
    axes.set(xlabel="outer step", ylabel="sum of losses")
    axes.legend(fontsize=8)
    return figure
