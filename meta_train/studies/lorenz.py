"""Parameters of the Lorenz system, learned through 2,000 chaotic steps.

Li, Harrison, Sohl-Dickstein, Smith, Metz 2023, "Variance-reduced gradient estimation via noise-reuse in online
evolution strategies" (arXiv:2304.12180). Euler steps of 0.005, b = 8/3; theta = (log a, log r) from (3.116, 3.7), true
values a = 10, r = 28; the loss of a step is the squared error of z beside the true trajectory from the same start (1.2,
1.3, 1.6). SGD, windows of 100, sigma 0.04, 200 step-unlocked pairs after a burn-in. Test: starts moved by N(0, 1).

Backpropagation is useless here: its norm is hundreds of times that of the smoothed gradient.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_train import estimators
from meta_train.estimators.burn_in import BurnIn
from meta_train.noise import Dense
from meta_train.studies import Check, Result
from meta_train.studies.problems import Unrolled

DT, HORIZON, WINDOW, PAIRS, SIGMA = 0.005, 2000, 100, 200, 0.04
START, TRUTH, ORIGIN = (3.116, 3.7), (float(np.log(10.0)), float(np.log(28.0))), (1.2, 1.3, 1.6)
RATES = {"ES-Single": 1e-5, "truncated ES": 3e-4}
STEPS = {"ES-Single": 1000, "truncated ES": 5000}
EVERY, TESTS, SEEDS = 10, 500, (101, 103, 107)


def move(theta: Any, x: Any) -> Any:
    """One Euler step."""
    a, r = jnp.exp(theta[0]), jnp.exp(theta[1])
    d = jnp.stack([a * (x[1] - x[0]), x[0] * (r - x[2]) - x[1], x[0] * x[1] - 8.0 / 3.0 * x[2]])
    return x + DT * d


def advance(theta: Any, state: Any, key: Any) -> Any:
    """One step of the model and of the truth."""
    del key
    x, true = state
    x, true = move(theta, x), move(jnp.asarray(TRUTH, x.dtype), true)
    return (x, true), (x[2] - true[2]) ** 2


def system() -> Unrolled:
    """The problem; the state is (x, its true twin)."""
    origin = lambda theta: jnp.asarray(ORIGIN, theta.dtype)
    return Unrolled(lambda theta, key: (origin(theta), origin(theta)), advance, HORIZON)


def mean_loss(theta: Any, origin: Any, horizon: int = HORIZON) -> Any:
    """Mean over an episode from `origin`."""
    step = lambda s, _: advance(theta, s, None)
    return jnp.mean(jax.lax.scan(step, (origin, origin), None, length=horizon)[1])


def test_loss(theta: Any) -> Any:
    """Mean over fixed moved starts."""
    moved = jnp.asarray(ORIGIN)[None] + jax.random.normal(jax.random.key(0), (TESTS, 3))
    return jnp.mean(jax.vmap(mean_loss, (None, 0))(theta, moved))


def methods() -> dict[str, Any]:
    """Estimators by name."""
    size: dict[str, Any] = {"pairs": PAIRS, "window": WINDOW}
    return {
        "ES-Single": BurnIn(estimators.es_single(Dense(SIGMA), **size), HORIZON, WINDOW),
        "truncated ES": BurnIn(estimators.truncated_es(Dense(SIGMA), **size), HORIZON, WINDOW),
    }


@partial(jax.jit, static_argnums=(0, 1, 2))
def train(estimator: Any, rate: float, steps: int, key: Any) -> Any:
    """Test loss and theta before training and after every EVERY steps."""
    problem, theta = system(), jnp.asarray(START)

    def one(carry: Any, _: Any) -> Any:
        theta, state = carry
        gradient, state, _ = estimator.estimate(problem, theta, state)
        return (theta - rate * gradient, state), None

    def some(carry: Any, _: Any) -> Any:
        carry, _ = jax.lax.scan(one, carry, None, length=EVERY)
        return carry, (test_loss(carry[0]), carry[0])

    start = (theta, estimator.init(problem, theta, key))
    return jax.lax.scan(some, start, None, length=steps // EVERY)[1]


def explosion() -> tuple[float, float]:
    """Norm of the exact gradient of the mean loss at the start, and of the smoothed one."""
    with jax.enable_x64(True):
        theta, origin = jnp.asarray(START), jnp.asarray(ORIGIN)
        exact = jax.jit(jax.grad(mean_loss))(theta, origin)
        estimator = estimators.full_es(Dense(SIGMA), pairs=4000, horizon=HORIZON)
        problem = system()
        smoothed = jax.jit(lambda key: estimator.estimate(problem, theta, estimator.init(problem, theta, key))[0])(
            jax.random.key(1)
        )
        return float(jnp.linalg.norm(exact)), float(jnp.linalg.norm(smoothed))


def run() -> Result:
    """Train with ES-Single (3 seeds) and truncated ES (1 seed); compare gradients at the start."""
    curves: dict[str, Any] = {}
    for name, estimator in methods().items():
        seeds = SEEDS if name == "ES-Single" else SEEDS[:1]
        runs = [train(estimator, RATES[name], STEPS[name], jax.random.key(seed)) for seed in seeds]
        curves[name] = [np.asarray(losses).tolist() for losses, _ in runs]
    exact, smoothed = explosion()
    first = [next((EVERY * (i + 1) for i, v in enumerate(run) if v < 50), np.inf) for run in curves["ES-Single"]]
    stalled = curves["truncated ES"][0][-1]
    steps, ratio = float(max(first)), exact / smoothed
    settings = {"pairs": PAIRS, "window": WINDOW, "sigma": SIGMA, "rates": RATES, "seeds": SEEDS}
    return Result(
        "lorenz",
        (
            Check("outer steps of ES-Single to a test loss of 50, slowest seed", steps, steps <= 1000, "at most 1000"),
            Check("last test loss of truncated ES", stalled, stalled > 60, "above 60"),
            Check("norm of backpropagation over that of the smoothed gradient", ratio, ratio > 100, "above 100"),
        ),
        curves,
        settings | {"exact_norm": exact, "smoothed_norm": smoothed},
    )


def figure(result: Result) -> Any:
    """Test loss against outer steps, all seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, runs) in enumerate(result.curves.items()):
        for j, values in enumerate(runs):
            steps = EVERY * (1 + np.arange(len(values)))
            axes.plot(steps, values, color=f"C{i}", label=name if j == 0 else None)
    axes.axhline(50, color="grey", linewidth=0.5)
    axes.set(xlabel="outer step", ylabel="test loss", ylim=(0, 400))
    axes.legend(fontsize=8)
    return figure
