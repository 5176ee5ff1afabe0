"""Noise of low rank: the same numbers as its matrices in full, without the matrices (U10)."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Toy, episode_sum

from learned_opt import low_rank
from learned_opt.errors import InputError
from learned_opt.low_rank import PlusLowRank
from learned_opt.rules.velo import VeLO
from meta_train import estimators
from meta_train.estimators.clock import Phases
from meta_train.noise import LowRank

ROWS, COLUMNS = 6, 4
pytestmark = pytest.mark.quick_compilation


@cache
def network(horizon: int = 6) -> Toy:
    """A state of 4 numbers, driven through a matrix and a bias."""

    def step(theta: Any, s: Any, key: Any) -> Any:
        x = jnp.concatenate([s, s[:2] ** 2])
        s = jnp.tanh(low_rank.matmul(x[None], theta["w"])[0] + theta["b"])
        return s, jnp.sum(s**2)

    return Toy(lambda theta, key: jnp.arange(1.0, 5.0) / 4, step, horizon)


def weights() -> Any:
    w = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    return {"b": jnp.ones(COLUMNS) / 3, "w": jnp.asarray(w) / 3}


@dataclass(frozen=True)
class InFull:
    """The draws of a `LowRank`, as matrices."""

    low: LowRank

    @property
    def sigma(self) -> float:
        return self.low.sigma

    def draw(self, *args: Any) -> Any:
        theta = args[-1]
        zeros = jax.tree.map(jnp.zeros_like, theta)
        moved = self.low.perturb(zeros, self.low.draw(*args), jnp.float32(1.0))
        return jax.tree.map(jnp.asarray, moved, is_leaf=low_rank.is_leaf)

    def perturb(self, theta: Any, draw: Any, sign: Any) -> Any:
        return jax.tree.map(lambda x, d: x + sign * d, theta, draw)

    def combine(self, theta: Any, weights: Any, draws: Any) -> Any:
        return jax.tree.map(lambda d: jnp.tensordot(weights, d, axes=weights.ndim), draws)

    def squares(self, theta: Any, weights: Any, draws: Any) -> Any:
        each = jax.vmap(partial(self.combine, theta))(weights, draws)
        return sum(jnp.sum(x**2, axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(each))


@pytest.mark.parametrize(
    ("make", "scales"),
    [
        (estimators.es_single, ()),
        (estimators.es_single, (("w", 2.0), ("b", 0.5))),
        (estimators.truncated_es, ()),
    ],
)
def test_it_is_dense_noise_with_the_same_matrices(make: Any, scales: Any) -> None:
    low = LowRank(0.1, 2, least=1, scales=())
    if scales:  # the same by hand: theta / scale, in a problem that multiplies by it
        noise = LowRank(0.1, 2, least=1, scales=scales)
        inner, s = network(), dict(scales)

        def step(theta: Any, state: Any, key: Any) -> Any:
            return inner.step({k: jnp.asarray(v) * s[k] for k, v in theta.items()}, state, key)

        problem = Toy(inner.reset, step, 6)
        got, _, metrics = episode_sum(make(noise, pairs=3, window=4), network(), weights(), jax.random.key(0), 3)
        theta = {k: v / s[k] for k, v in weights().items()}
        want, _, other = episode_sum(make(InFull(low), pairs=3, window=4), problem, theta, jax.random.key(0), 3)
        want = {k: v / s[k] for k, v in want.items()}
    else:
        got, _, metrics = episode_sum(make(low, pairs=3, window=4), network(), weights(), jax.random.key(0), 3)
        want, _, other = episode_sum(make(InFull(low), pairs=3, window=4), network(), weights(), jax.random.key(0), 3)
        np.testing.assert_allclose(metrics["signal_to_noise"], other["signal_to_noise"], rtol=1e-3)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-3, atol=2e-5)


def test_products_are_those_of_the_matrix() -> None:
    k = jax.random.split(jax.random.key(0), 4)
    matrix = PlusLowRank(*(jax.random.normal(key, s) for key, s in zip(k, [(6, 4), (6, 2), (4, 2)], strict=False)))
    x = jax.random.normal(k[3], (5, 6))
    full = np.asarray(matrix.w) + np.asarray(matrix.b) @ np.asarray(matrix.a).T
    np.testing.assert_allclose(jnp.asarray(matrix), full, rtol=1e-5, atol=1e-6)
    for got in (low_rank.matmul(x, matrix), x @ matrix, low_rank.matmul(x, jnp.asarray(matrix))):
        np.testing.assert_allclose(got, np.asarray(x) @ full, rtol=1e-4, atol=1e-5)


def test_rank_and_size_of_a_draw() -> None:
    theta = {"b": jnp.zeros(5), "big": jnp.zeros((40, 30)), "small": jnp.zeros((3, 4))}
    noise = LowRank(0.1, 2, least=1000)
    draws = jax.jit(jax.vmap(noise.draw, (0, None, 0, None)))
    many = draws(jax.random.split(jax.random.key(0), 4), jnp.int32(0), jnp.ones(4, jnp.int32), theta)
    assert [x.shape[1:] for x in jax.tree.leaves(many)] == [(17,), (40, 2), (30, 2)]
    each = [np.asarray(b) @ np.asarray(a).T for b, a in zip(*many.factors[0], strict=True)]
    assert [np.linalg.matrix_rank(x) for x in each] == [2] * 4
    update = noise.combine(theta, jnp.ones(4), many)["big"]
    assert np.linalg.matrix_rank(np.asarray(update)) == 8
    np.testing.assert_allclose(np.std(each), 0.1, rtol=0.15)


def test_leaves_and_blocks_have_noise_of_their_own() -> None:
    """The correlation of two independent vectors of n is 0 within 5 / sqrt n; of a shared draw, far from it."""
    theta = {"b": jnp.zeros(4000), "u": jnp.zeros((2000, 2000)), "v": jnp.zeros((2000, 2000))}
    noise = LowRank(0.1, 1, least=1000)
    draws = jax.jit(jax.vmap(noise.draw, (None, None, 0, None)))
    key = jax.random.key(0)
    got = draws(key, jnp.int32(0), jnp.arange(1, 3, dtype=jnp.int32), theta)
    halves = [x.reshape(2, -1, 2000) for x in jax.tree.leaves(got)]
    vectors = np.concatenate([np.asarray(x) for x in halves], axis=1).reshape(-1, 2000)
    assert len(vectors) == 2 * (2 + 2 * 2)
    np.testing.assert_allclose(np.corrcoef(vectors), np.eye(len(vectors)), atol=5 / np.sqrt(2000))


def test_squared_norms_are_those_of_each_pair() -> None:
    """Two blocks a pair: their matrices overlap, so the squared norm of the sum is not the sum of squared norms."""
    theta, noise = weights(), LowRank(0.1, 2, least=1, scales=(("w", 3.0),))
    draws = jax.vmap(jax.vmap(noise.draw, (None, None, 0, None)), (0, None, None, None))
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(draws)(keys, jnp.int32(0), jnp.arange(2, dtype=jnp.int32), theta)
    w = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    (b, a), flat = (np.asarray(x) for x in many.factors[0]), np.asarray(many.flat)
    want = [
        np.sum((sum(w[i, s] * b[i, s] @ a[i, s].T for s in range(2)) / 3.0) ** 2) + np.sum((w[i] @ flat[i]) ** 2)
        for i in range(3)
    ]
    np.testing.assert_allclose(noise.squares(theta, jnp.asarray(w), many), want, rtol=1e-4)


def test_sums_of_draws_are_refused() -> None:
    with pytest.raises(InputError, match="not of low rank"):
        estimators.pes(LowRank(0.1), pairs=2, window=5)


def test_velo_is_the_rule_with_its_matrices_in_full() -> None:
    """No array of the size of N copies of the LSTM's weights in the program; the direct calculation agrees."""
    rule, members, noise = VeLO(lstm_units=32, bank=8), 4, LowRank(0.05, 1, least=64 * 128)
    theta = jax.jit(rule.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), members)
    own = jax.vmap(member(rule, noise), (None, 0))
    shapes = [v.aval.shape for v in every_variable(jax.make_jaxpr(own)(theta, keys).jaxpr)]
    assert (64, 128) in shapes  # the matrix itself
    assert not [s for s in shapes if s[-2:] == (64, 128) and len(s) > 2]
    got = jax.jit(own)(theta, keys)
    want = jax.jit(jax.vmap(member(rule, InFull(noise)), (None, 0)))(theta, keys)
    np.testing.assert_allclose(got["w"], want["w"], rtol=1e-3, atol=1e-7)
    assert not np.allclose(got["w"][0], got["w"][1], rtol=1e-3)


def test_memory_of_velo_for_each_member() -> None:
    """The compiled program of VeLO as published: its LSTM alone, 1024 x 2048, would take 8.4 MB of each member. The
    factors take 12 kB, and the 75,000 weights with dense noise less than seven times 0.3 MB."""
    rule = VeLO()
    theta = jax.eval_shape(rule.init, jax.random.key(0))

    def temporaries(members: int) -> int:
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(1), members))
        program = jax.jit(jax.vmap(member(rule, LowRank(0.05, 1)), (None, 0)))
        return program.lower(theta, keys).compile().memory_analysis().temp_size_in_bytes

    assert (temporaries(10) - temporaries(2)) / 8 < 2.1e6


def member(rule: VeLO, noise: Any) -> Any:
    """(theta, key) -> the first update of a small model under perturbed weights."""
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}

    def step(theta: Any, key: Any) -> Any:
        draw = noise.draw(key, jnp.int32(0), jnp.int32(1), theta)
        opt = rule.transform(noise.perturb(theta, draw, jnp.float32(1.0)), num_steps=10)
        return opt.update(params, opt.init(params), params, value=jnp.float32(1.0))[0]

    return step


def every_variable(jaxpr: Any) -> list[Any]:
    found = [v for equation in jaxpr.eqns for v in equation.outvars]
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += every_variable(inner)
    return [v for v in found if hasattr(v.aval, "shape")] + [v for v in jaxpr.invars if hasattr(v.aval, "shape")]


def test_phases_are_spread_by_default() -> None:
    assert estimators.es_single(LowRank(), pairs=2, window=5).phases is Phases.SPREAD
