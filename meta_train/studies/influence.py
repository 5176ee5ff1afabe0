"""Influence balancing: a linear system whose parameter helps at first and harms in the end.

Vicol, Metz, Sohl-Dickstein 2021 (arXiv:2112.13835), section 5.1. s' = A s + theta v, A = (I + superdiagonal) / 2 of
size 23, v = 10 times +1, 13 times -1, loss (s'[0] - 1)^2 / 2, s = 1 and theta = 0.5 at first; plain SGD 1e-4, one inner
step per estimate, one endless episode. Steady loss (6 theta + 1)^2 / 2: 8 at first, 0 at theta = -1/6. Short unrolls
see the sign of the derivative wrongly.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_train import estimators
from meta_train.estimators.clock import Phases
from meta_train.noise import Dense
from meta_train.studies import Check, Result
from meta_train.studies.problems import ENDLESS, Unrolled

SIZE, POSITIVE, RATE, SIGMA = 23, 10, 1e-4, 0.1
STEPS, EVERY, LONG = 3000, 50, 500
SEED = 3


def system() -> Unrolled:
    """The problem."""
    a = 0.5 * np.eye(SIZE) + 0.5 * np.eye(SIZE, k=1)
    v = np.where(np.arange(SIZE) < POSITIVE, 1.0, -1.0)

    def advance(theta: Any, s: Any, key: Any) -> Any:
        del key
        s = jnp.asarray(a, s.dtype) @ s + theta * jnp.asarray(v, s.dtype)
        return s, 0.5 * (s[0] - 1.0) ** 2

    return Unrolled(lambda theta, key: jnp.ones((SIZE,), theta.dtype), advance, ENDLESS)


def methods() -> dict[str, Any]:
    """Estimators by name; the number is that of particles."""
    lock: dict[str, Any] = {"window": 1, "phases": Phases.LOCKSTEP}
    return {
        "PES, 1000": estimators.pes(Dense(SIGMA), pairs=500, **lock),
        "ES-Single, 1000": estimators.es_single(Dense(SIGMA), pairs=500, **lock),
        "ES-Single, 4": estimators.es_single(Dense(SIGMA), pairs=2, **lock),
        "truncated ES, 1000": estimators.truncated_es(Dense(SIGMA), pairs=500, **lock),
        "truncated backpropagation": estimators.truncated_backprop(pairs=1, **lock),
        "forward mode, 500": estimators.forward(pairs=500, **lock),
    }


@partial(jax.jit, static_argnums=0)
def train(estimator: Any) -> Any:
    """Long-unroll loss at theta before training and after every EVERY steps."""
    problem, theta = system(), jnp.asarray(0.5)

    def long_loss(theta: Any) -> Any:
        step = lambda s, _: problem.advance(theta, s, None)
        return jnp.mean(jax.lax.scan(step, jnp.ones((SIZE,), theta.dtype), None, length=10 * LONG)[1][-LONG:])

    def one(carry: Any, _: Any) -> Any:
        theta, state = carry
        gradient, state, _ = estimator.estimate(problem, theta, state)
        return (theta - RATE * gradient, state), None

    def some(carry: Any, _: Any) -> Any:
        carry, _ = jax.lax.scan(one, carry, None, length=EVERY)
        return carry, long_loss(carry[0])

    start = (theta, estimator.init(problem, theta, jax.random.key(SEED)))
    _, losses = jax.lax.scan(some, start, None, length=STEPS // EVERY)
    return jnp.concatenate([long_loss(theta)[None], losses])


def run() -> Result:
    """Train with every method."""
    with jax.enable_x64(True):
        curves = {name: np.asarray(train(estimator)).tolist() for name, estimator in methods().items()}
    last = {name: values[-1] for name, values in curves.items()}
    below = lambda name, bound: Check(f"loss of {name}", last[name], last[name] < bound, f"below {bound:g}")
    above = lambda name, bound: Check(f"loss of {name}", last[name], not last[name] < bound, f"above {bound:g}")
    return Result(
        "influence",
        (
            below("PES, 1000", 1e-6),
            below("ES-Single, 1000", 1e-6),
            below("ES-Single, 4", 8.0),
            below("forward mode, 500", 1e-6),
            above("truncated ES, 1000", 100),
            above("truncated backpropagation", 100),
        ),
        curves,
        {"rate": RATE, "sigma": SIGMA, "steps": STEPS, "every": EVERY, "window": 1, "seed": SEED},
    )


def figure(result: Result) -> Any:
    """Loss against outer steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in result.curves.items():
        axes.plot(np.arange(len(values)) * EVERY, values, label=name)
    axes.set(xlabel="outer step", ylabel="steady loss", yscale="log", ylim=(1e-18, 1e3))
    axes.legend(fontsize=8)
    return figure
