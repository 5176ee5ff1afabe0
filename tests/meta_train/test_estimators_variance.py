"""Mean and variance of one estimate of an episode, by Monte Carlo, against the formulae of a linear problem (U5).

With g_tb = dL_t/dtheta_b, block b being window b, and G_ab = sum over t >= max(a, b) of g_tb, one pair has
tr Var = P sum_ab |G_ab|^2 + sum_ab G_ab . G_ba.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import linear

from meta_train import estimators
from meta_train.estimators.analytic import PESAnalytic
from meta_train.estimators.clock import Phases
from meta_train.noise import Dense, Guided, LowRank

N = 60_000
es_single, pes, forward = (
    partial(make, phases=Phases.LOCKSTEP) for make in (estimators.es_single, estimators.pes, estimators.forward)
)


pytestmark = pytest.mark.quick_compilation


@partial(jax.jit, static_argnums=0)
def samples(estimator: Any, gradients: Any) -> Any:
    """Sums over one episode, [N, P]; one program for all problems of a shape."""
    n, _, size = gradients.shape
    problem, theta = linear(gradients), jnp.zeros(size)

    def one(key: Any) -> Any:
        def window(state: Any, _: None) -> Any:
            gradient, state, _ = estimator.estimate(problem, theta, state)
            return state, gradient

        return jnp.sum(jax.lax.scan(window, estimator.init(problem, theta, key), None, length=n)[1], axis=0)

    return jax.vmap(one)(jax.random.split(jax.random.key(7), N))


def moments(estimator: Any, gradients: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean and total variance of the sum over an episode."""
    got = np.asarray(samples(estimator, jnp.asarray(gradients, jnp.float32)), np.float64)
    return got.mean(axis=0), float(np.sum(np.var(got, axis=0)))


def blocks(gradients: np.ndarray, *, strictly: bool = False) -> np.ndarray:
    """G_ab, [n, n, P]; with `strictly`, over t > max(a, b)."""
    n = len(gradients)
    return np.stack(
        [
            np.stack([gradients[max(a, b) + strictly :, b].sum(axis=0) for b in range(n)])
            for a in range(n)
        ]
    )  # fmt: skip


def total_variance(gradients: np.ndarray, **how: bool) -> float:
    g = blocks(gradients, **how)
    return gradients.shape[2] * float(np.sum(g**2)) + float(np.einsum("abp,bap->", g, g))


def triangular(n: int, size: int) -> np.ndarray:
    g = np.random.default_rng(3).normal(size=(n, n, size))
    return g * np.tril(np.ones((n, n)))[..., None]


RANDOM = triangular(6, 6)
GRADIENT = RANDOM.sum(axis=(0, 1))


@pytest.mark.parametrize(
    ("estimator", "want"),
    [
        (pes(Dense(0.1), pairs=1, window=1), total_variance(RANDOM)),
        (PESAnalytic(Dense(0.1), 1, 1), total_variance(RANDOM, strictly=True)),
        (es_single(Dense(0.1), pairs=1, window=1), 7 * np.sum(GRADIENT**2)),
        (forward(pairs=1, window=1), 7 * np.sum(GRADIENT**2)),
        # Three pairs: a third of it.
        (es_single(Dense(0.1), pairs=3, window=1), 7 / 3 * np.sum(GRADIENT**2)),
    ],
    ids=["pes", "pes-analytic", "es-single", "forward", "es-single of 3 pairs"],
)
def test_mean_and_variance_of_an_episode(estimator: Any, want: float) -> None:
    mean, variance = moments(estimator, RANDOM)
    np.testing.assert_allclose(variance, want, rtol=0.05)
    np.testing.assert_allclose(mean, GRADIENT, atol=5 * np.sqrt(want / N))


def regime(name: str, n: int = 6) -> np.ndarray:
    """P = n = 6. What a step depends on, and how the gradients of windows are correlated."""
    units, one = np.eye(n), np.ones((n, n)) / np.sqrt(n)
    g = np.zeros((n, n, n))
    match name:
        case "own step, uncorrelated":
            g[np.arange(n), np.arange(n)] = units
        case "own step, identical":
            g[np.arange(n), np.arange(n)] = one
        case "last step, identical":
            g[-1] = one
        case "last step, orthogonal":
            g[-1] = units
    return g


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("own step, uncorrelated", 6 * 7 / 2 + 1),  # P (n + 1) / 2 + 1: linear in the number of windows
        ("own step, identical", 6 * 7 / 12 + 1 / 6),  # P (n + 1) / (2 n) + 1 / n: falls to P / 2
        ("last step, identical", 7.0),  # P + 1
        ("last step, orthogonal", 37.0),  # P n + 1
    ],
)
def test_regimes_of_correlation(name: str, want: float) -> None:
    """Relative to |grad|^2; ES-Single has P + 1 = 7 in each."""
    g = regime(name)
    square = np.sum(g.sum(axis=(0, 1)) ** 2)
    np.testing.assert_allclose(total_variance(g) / square, want, rtol=1e-12)
    _, variance = moments(pes(Dense(0.1), pairs=1, window=1), g)
    np.testing.assert_allclose(variance / square, want, rtol=0.05)


def test_step_unlocked_windows() -> None:
    """One window of ES-Single at a uniform phase; with h_j the gradient of window j and their mean h:
    tr Var = (P + 2) mean_j |h_j|^2 - |h|^2, since |h_j|^2 (P + 2) is its second moment at phase j."""
    g = RANDOM
    n, size = len(g), g.shape[2]
    estimator = estimators.es_single(Dense(0.1), pairs=1, window=1, phases=Phases.UNIFORM)
    problem, theta = linear(g), jnp.zeros(size)

    def one(key: Any) -> Any:
        def window(state: Any, _: None) -> Any:
            gradient, state, _ = estimator.estimate(problem, theta, state)
            return state, gradient

        # Past the cut first episode of up to n steps.
        return jax.lax.scan(window, estimator.init(problem, theta, key), None, length=n + 1)[1][-1]

    got = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), N)), np.float64)
    h = g.sum(axis=1)
    mean = h.mean(axis=0)
    want = (size + 2) * np.mean(np.sum(h**2, axis=1)) - np.sum(mean**2)
    np.testing.assert_allclose(np.sum(np.var(got, axis=0)), want, rtol=0.05)
    np.testing.assert_allclose(got.mean(axis=0), mean, atol=5 * np.sqrt(want / N))


def of_noise(noise: Any, gradient: Any) -> tuple[Any, float]:
    """Mean and total variance of eps (L(+) - L(-)) / (2 sigma^2) for L = <G, theta>."""
    theta = {"w": jnp.zeros(gradient.shape)}

    def one(key: Any) -> Any:
        draw = noise.draw(key, jnp.int32(0), jnp.int32(1), theta)
        eps = noise.perturb(theta, draw, jnp.float32(1.0))["w"]
        d = 2 * jnp.sum(jnp.asarray(eps) * gradient)
        return noise.combine(theta, d[None] / (2 * noise.sigma**2), jax.tree.map(lambda x: x[None], draw))["w"]

    got = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), N)), np.float64)
    return got.mean(axis=0), float(np.sum(np.var(got, axis=0)))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_low_rank_noise(rank: int) -> None:
    """U10: tr Var = (m n + 1 + (2 m + 2 n + 2) / r) |G|^2."""
    m, n = 5, 4
    g = np.random.default_rng(0).normal(size=(m, n)).astype(np.float32)
    mean, variance = of_noise(LowRank(0.1, rank, least=1), g)
    want = (m * n + 1 + (2 * m + 2 * n + 2) / rank) * np.sum(g**2)
    np.testing.assert_allclose(variance, want, rtol=0.05)
    np.testing.assert_allclose(mean, g, atol=5 * np.sqrt(want / N))


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1])
def test_guided_noise(alpha: float) -> None:
    """Mean C g, tr Var = P g.Cg + |Cg|^2, with C = alpha I + (1 - alpha) (P / k) U U^T, tr C = P."""
    size, k = 8, 2
    rng = np.random.default_rng(0)
    g = rng.normal(size=size).astype(np.float32)
    basis, _ = np.linalg.qr(rng.normal(size=(size, k)).astype(np.float32))
    c = alpha * np.eye(size) + (1 - alpha) * size / k * basis @ basis.T
    mean, variance = of_noise(Guided(jnp.asarray(basis), 0.1, alpha), g)
    want = size * g @ c @ g + g @ c @ c @ g
    np.testing.assert_allclose(variance, want, rtol=0.05)
    np.testing.assert_allclose(mean, c @ g, atol=5 * np.sqrt(want / N))


def test_scaled_noise_is_unbiased_and_smooths_by_leaf() -> None:
    """Deviation sigma s on a leaf; mean of the estimates of a linear loss is its gradient for any s."""
    noise = Dense(0.1, scales=(("w", 3.0),))
    g = np.asarray([1.0, -2.0, 0.5], np.float32)
    mean, variance = of_noise(noise, g)
    np.testing.assert_allclose(mean, g, atol=5 * np.sqrt(variance / N))
    theta = {"v": jnp.zeros(2), "w": jnp.zeros(3)}
    one = noise.perturb(theta, jnp.ones(5), jnp.float32(1.0))
    np.testing.assert_allclose(np.concatenate([one["v"], one["w"]]), [1, 1, 3, 3, 3])
