"""Problems with known derivatives.

Makers give the same object for the same arguments, so a program compiled for one test serves the next.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.horizon import LogUniform
from meta_train.problem import step_key


class Toy:
    """A problem from two functions; the horizon is constant unless a range is given."""

    def __init__(self, reset: Any, step: Any, horizon: int | tuple[int, int], loss_cap: float = np.inf) -> None:
        low, high = (horizon, horizon) if isinstance(horizon, int) else horizon
        self._horizon = LogUniform(low, high)
        self.reset, self.step, self.loss_cap = reset, step, loss_cap
        self.min_horizon, self.max_horizon = low, high

    def horizon(self, key: Any) -> Any:
        return self._horizon(jax.random.fold_in(key, 0))


@cache
def influence_balancing(horizon: int) -> Toy:
    """s <- A s + theta v, loss (s[0] - 1)^2 / 2 after the step; linear dynamics, quadratic loss (Vicol et al. 2021)."""
    n = 23
    a = 0.5 * np.eye(n) + 0.5 * np.eye(n, k=1)
    v = np.where(np.arange(n) < 10, 1.0, -1.0)

    def step(theta: Any, s: Any, key: Any) -> Any:
        s = jnp.asarray(a, s.dtype) @ s + theta * jnp.asarray(v, s.dtype)
        return s, 0.5 * (s[0] - 1.0) ** 2

    return Toy(lambda theta, key: jnp.ones((n,), theta.dtype), step, horizon)


@cache
def learning_rate(horizon: int, h: float = 1.3, w0: float = 0.9) -> Toy:
    """w <- (1 - theta h) w, loss h w^2 / 2 after the step."""

    def step(theta: Any, w: Any, key: Any) -> Any:
        w = (1.0 - theta * h) * w
        return w, 0.5 * h * w**2

    return Toy(lambda theta, key: jnp.asarray(w0, theta.dtype), step, horizon)


def hashed(key: Any, dtype: Any) -> Any:
    """A number in [0, 1) that belongs to the key: compiles far quicker than a normal draw."""
    return jax.random.key_data(key)[0].astype(dtype) / 2.0**32


@dataclass(frozen=True)
class Waves:
    """Noise with no structure that a test could rely on, without a random generator to compile."""

    sigma: float
    skip: int = 0

    def draw(self, key: Any, pair: Any, block: Any, theta: Any) -> Any:
        return self.sigma * jnp.sin(1.7 * (pair + self.skip) + 5.3 * block + 2.9 * jnp.arange(theta.size))

    def perturb(self, theta: Any, draw: Any, sign: Any) -> Any:
        return theta + sign * jnp.reshape(draw, theta.shape)

    def combine(self, theta: Any, weights: Any, draws: Any) -> Any:
        return jnp.reshape(jnp.tensordot(weights, draws, axes=weights.ndim), theta.shape)

    def squares(self, theta: Any, weights: Any, draws: Any) -> Any:
        each = jax.vmap(lambda w, d: jnp.tensordot(w, d, axes=1))(weights, draws)
        return jnp.sum(jnp.reshape(each, (each.shape[0], -1)) ** 2, axis=1)


@cache
def noisy_chaos(horizon: int | tuple[int, int], loss_cap: float = np.inf) -> Toy:
    """A non-linear random system of two weights whose start and forcing come from the keys."""

    def reset(theta: Any, key: Any) -> Any:
        return hashed(key, theta.dtype) * jnp.arange(1, 4)

    def step(theta: Any, s: Any, key: Any) -> Any:
        s = jnp.sin(2.0 * s + theta[0]) + theta[1] * jnp.roll(s, 1) + 0.1 * hashed(key, s.dtype)
        return s, jnp.sum(s**2)

    return Toy(reset, step, horizon, loss_cap)


def unrolled_sum(problem: Toy, theta: Any, steps: int, key: Any) -> Any:
    """Sum of the losses of one episode of `steps` steps, differentiable in theta."""
    step = lambda state, t: problem.step(theta, state, step_key(key, t))
    return jnp.sum(jax.lax.scan(step, problem.reset(theta, key), jnp.arange(steps, dtype=jnp.int32))[1])


@partial(jax.jit, static_argnums=(0, 2))
def exact_gradient(problem: Toy, theta: Any, steps: int, key: Any) -> Any:
    """Derivative of the summed loss of the episode of `key`."""
    return jax.grad(unrolled_sum, argnums=1)(problem, theta, steps, key)


@partial(jax.jit, static_argnums=(0, 1))
def _begin(estimator: Any, problem: Toy, theta: Any, key: Any) -> Any:
    return estimator.init(problem, theta, key)


@partial(jax.jit, static_argnums=(0, 1))
def _advance(estimator: Any, problem: Toy, theta: Any, state: Any) -> Any:
    return estimator.estimate(problem, theta, state)


def first_estimate(estimator: Any, problem: Toy, theta: Any, key: Any) -> Any:
    """The state before the first estimate, and what the estimate gives: gradient, state, metrics."""
    state = _begin(estimator, problem, theta, key)
    return state, _advance(estimator, problem, theta, state)


def episode_sum(estimator: Any, problem: Toy, theta: Any, key: Any, windows: int) -> Any:
    """Sum over windows of W times the estimate: the estimator's gradient of the summed loss; the last state; the
    metrics of all windows. A loop, so that one program serves any number of windows."""
    state, found = _begin(estimator, problem, theta, key), []
    for _ in range(windows):
        gradient, state, metrics = _advance(estimator, problem, theta, state)
        found.append((gradient, metrics))
    gradients, metrics = jax.tree.map(lambda *each: np.stack(each), *found)
    return jax.tree.map(lambda g: estimator.window * np.sum(g, axis=0), gradients), state, metrics


def first_draws(noise: Any, state: Any, theta: Any) -> np.ndarray:
    """The first draw of every pair, [N, P]."""
    pair = jnp.arange(len(state.noise_keys), dtype=jnp.int32)
    return np.asarray(jax.vmap(noise.draw, (0, 0, None, None))(state.noise_keys, pair, jnp.int32(1), theta))


@dataclass(frozen=True, eq=False)
class Design:
    """Noise from a table [pairs, blocks, P]; block b of any episode gets column (b - 1) mod blocks."""

    sigma: float
    table: Any

    def draw(self, key: Any, pair: Any, block: Any, theta: Any) -> Any:
        return jnp.asarray(self.table)[pair, (block - 1) % self.table.shape[1]]

    def perturb(self, theta: Any, draw: Any, sign: Any) -> Any:
        return theta + sign * jnp.reshape(draw, theta.shape)

    def combine(self, theta: Any, weights: Any, draws: Any) -> Any:
        return jnp.reshape(jnp.tensordot(weights, draws, axes=weights.ndim), theta.shape)

    def squares(self, theta: Any, weights: Any, draws: Any) -> Any:
        each = jax.vmap(lambda w, d: jnp.tensordot(w, d, axes=1))(weights, draws)
        return jnp.sum(jnp.reshape(each, (each.shape[0], -1)) ** 2, axis=1)


@cache
def orthogonal_design(sigma: float, blocks: int, size: int, seed: int = 0) -> Design:
    """P * blocks pairs whose second moment is sigma^2 I exactly: exact for quadratic losses."""
    n = blocks * size
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return Design(sigma, (sigma * np.sqrt(n) * q).reshape(n, blocks, size))


def sum_over(estimator: Any, problem: Toy, theta: float | np.ndarray, windows: int, seed: int = 0) -> np.ndarray:
    total, _, _ = episode_sum(estimator, problem, jnp.asarray(theta), jax.random.key(seed), windows)
    return np.asarray(total)


def linear(gradients: Any) -> Toy:
    """L_t = sum over b <= t of g[t, b] . theta_b, theta_b being what step b was run with; g of shape [T, T, P]."""
    g = jnp.asarray(gradients)

    def step(theta: Any, s: Any, key: Any) -> Any:
        seen, t = s
        seen = seen.at[t].set(theta)
        return (seen, t + 1), jnp.sum(g[t].astype(theta.dtype) * seen)

    return Toy(lambda theta, key: (jnp.zeros(g.shape[1:], theta.dtype), jnp.int32(0)), step, len(g))


@cache
def cut_gradient() -> float:
    """Windows of 10, episodes of 15 of `influence_balancing`: the parts 0-10, 10-15, 0-5 and 5-15, each from a
    constant state. The derivative of s_t from a constant s_0 is d_t = sum over k < t of A^k v."""
    a = 0.5 * np.eye(23) + 0.5 * np.eye(23, k=1)
    v = np.where(np.arange(23) < 10, 1.0, -1.0)
    total = 0.0
    for first, last in ((0, 10), (10, 15), (0, 5), (5, 15)):
        state, slope = np.ones(23), np.zeros(23)
        for t in range(last):
            state = a @ state + 0.5 * v
            slope = a @ slope + v if t >= first else slope
            total += (state[0] - 1.0) * slope[0] if t >= first else 0.0
    return total
