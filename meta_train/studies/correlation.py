"""Variance of PES and ES-Single against the number of windows, in four regimes of correlation.

A linear loss: window t contributes sum over b <= t of g_tb . theta_b. One antithetic pair, summed over an episode of n
windows at fixed theta, has tr Var = P sum_ab |G_ab|^2 + sum_ab G_ab . G_ba with G_ab = sum over t >= max(a, b) of g_tb
(PES), and (P + 1) |grad|^2 (ES-Single). Relative to |grad|^2:

    windows                                          PES                     ES-Single
    own gradient each, orthogonal                    P (n + 1) / 2 + 1       P + 1
    own gradient each, all the same                  P (n + 1) / (2 n) + 1/n P + 1
    last loss only, same gradient by every window    P + 1                   P + 1
    last loss only, orthogonal gradients             P n + 1                 P + 1

So PES grows linearly where data are uncorrelated and falls to P / 2 where they repeat; Vicol 2023 (arXiv:2304.11153),
section 3.1 saw both.
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
from meta_train.studies.problems import Unrolled

P, SAMPLES = 16, 20_000
WINDOWS = (1, 2, 4, 8, 16)
REGIMES = {
    "own, orthogonal": lambda n: P * (n + 1) / 2 + 1,
    "own, the same": lambda n: P * (n + 1) / (2 * n) + 1 / n,
    "last, the same": lambda n: P + 1,
    "last, orthogonal": lambda n: P * n + 1,
}
"""Name and relative variance of PES."""


def gradients(regime: str, n: int) -> np.ndarray:
    """g of shape [n, n, P]."""
    units, same = np.eye(P)[:n], np.ones((n, P)) / np.sqrt(P)
    g = np.zeros((n, n, P), np.float32)
    which = same if regime.endswith("the same") else units
    if regime.startswith("own"):
        g[np.arange(n), np.arange(n)] = which
    else:
        g[-1] = which
    return g


@partial(jax.jit, static_argnums=0)
def samples(estimator: Any, g: Any) -> Any:
    """Estimates of single pairs, summed over an episode: [SAMPLES, P]."""
    n = len(g)

    def advance(theta: Any, state: Any, key: Any) -> Any:
        del key
        seen, t = state
        seen = seen.at[t].set(theta)
        return (seen, t + 1), jnp.sum(g[t] * seen)

    problem = Unrolled(lambda theta, key: (jnp.zeros((n, P)), jnp.int32(0)), advance, n)
    theta = jnp.zeros(P)

    def one(key: Any) -> Any:
        def window(state: Any, _: Any) -> Any:
            gradient, state, _ = estimator.estimate(problem, theta, state)
            return state, gradient

        return jnp.sum(jax.lax.scan(window, estimator.init(problem, theta, key), None, length=n)[1], axis=0)

    return jax.vmap(one)(jax.random.split(jax.random.key(0), SAMPLES))


def run() -> Result:
    """Measure every regime at every number of windows."""
    lock: dict[str, Any] = {"pairs": 1, "window": 1, "phases": Phases.LOCKSTEP}
    made = {"PES": estimators.pes(Dense(0.1), **lock), "ES-Single": estimators.es_single(Dense(0.1), **lock)}
    curves: dict[str, Any] = {"windows": list(WINDOWS)}
    checks = []
    for name, estimator in made.items():
        for regime, formula in REGIMES.items():
            measured, wanted = [], []
            for n in WINDOWS:
                g = gradients(regime, n)
                got = np.asarray(samples(estimator, jnp.asarray(g)), np.float64)
                measured.append(float(np.sum(np.var(got, axis=0)) / np.sum(g.sum(axis=(0, 1)) ** 2)))
                wanted.append(formula(n) if name == "PES" else P + 1.0)
            curves[f"{name}: {regime}"] = {"measured": measured, "formula": wanted}
            error = float(np.max(np.abs(np.array(measured) / np.array(wanted) - 1)))
            checks.append(Check(f"largest relative error of {name}, {regime}", error, error < 0.05, "below 0.05"))
    return Result("correlation", tuple(checks), curves, {"weights": P, "samples": SAMPLES, "sigma": 0.1})


def figure(result: Result) -> Any:
    """Measured points on the formulae."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    windows = result.curves["windows"]
    for i, (name, curve) in enumerate((k, v) for k, v in result.curves.items() if k != "windows"):
        axes.plot(windows, curve["formula"], color=f"C{i}", linestyle="-" if name.startswith("PES") else ":")
        axes.plot(windows, curve["measured"], "o", color=f"C{i}", label=name)
    axes.set(xlabel="windows in an episode", ylabel="tr Var / |grad|^2", xscale="log", yscale="log")
    axes.legend(fontsize=7)
    return figure
