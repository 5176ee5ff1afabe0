"""Derivatives, alone and in PES, in float64, against closed forms and jax.grad of a plain loop (U3, U4, U6, U8)."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import (
    Design,
    Toy,
    Waves,
    cut_gradient,
    episode_sum,
    exact_gradient,
    first_estimate,
    hashed,
    influence_balancing,
    learning_rate,
    linear,
    noisy_chaos,
    orthogonal_design,
    sum_over,
)

from learned_opt.errors import InputError
from meta_train import estimators
from meta_train.estimators.analytic import PESAnalytic
from meta_train.estimators.clock import Phases
from meta_train.estimators.credit import Objective
from meta_train.estimators.mix import InverseVarianceMix
from meta_train.noise import Dense, LowRank

es_single, gpes, truncated_es, forward, truncated_backprop, guided = (
    partial(getattr(estimators, name), phases=Phases.LOCKSTEP)
    for name in ("es_single", "gpes", "truncated_es", "forward", "truncated_backprop", "guided")
)
THETA2 = np.array([0.3, 0.4])
ONE = Design(0.1, np.full((1, 1, 1), 0.1))
TWO = Design(0.1, np.full((2, 1, 1), 0.1))
"""Two pairs; with eps = sigma each is exact for a quadratic loss."""


pytestmark = [pytest.mark.quick_compilation, pytest.mark.usefixtures("x64")]


@cache
def keyless(horizon: int) -> Toy:
    """`noisy_chaos` without noise: every pair sees the same episode."""

    def step(theta: Any, s: Any, key: Any) -> Any:
        s = jnp.sin(2.0 * s + theta[0]) + theta[1] * jnp.roll(s, 1)
        return s, jnp.sum(s**2)

    return Toy(lambda theta, key: theta[0] * jnp.arange(1.0, 4.0), step, horizon)


class TestBackprop:
    @pytest.mark.parametrize("segment", [None, 7])
    def test_whole_episodes_are_exact(self, segment: int | None) -> None:
        """U3; recomputed in segments of 7, 30 steps leave a rest of 2."""
        got = sum_over(estimators.backprop(pairs=1, horizon=30, segment=segment), influence_balancing(30), 0.5, 1)
        np.testing.assert_allclose(got, 2198.493683274982, rtol=1e-12)

    def test_truncation_is_biased_as_derived(self) -> None:
        """U4."""
        got = sum_over(truncated_backprop(pairs=1, window=2), learning_rate(6), 0.35, 3)
        assert got == pytest.approx(-1.3034176918941984, rel=1e-12)
        got = sum_over(truncated_backprop(pairs=1, window=6), learning_rate(6), 0.35, 1)
        assert got == pytest.approx(-1.5042831238993317, rel=1e-12)

    @pytest.mark.parametrize("window", [10, 41])
    @pytest.mark.parametrize("search", [False, True], ids=["truncated-backprop", "truncated-es"])
    def test_last_loss_of_a_window_has_the_sign_of_its_sensitivity(self, window: int, search: bool) -> None:
        """U6: d_K = sum over k < K of (A^k v)[0], whose sign flips at K = 41; an episode of two windows."""
        a = 0.5 * np.eye(23) + 0.5 * np.eye(23, k=1)
        v = np.where(np.arange(23) < 10, 1.0, -1.0)
        powers = [v]
        for _ in range(99):
            powers.append(a @ powers[-1])
        d = np.concatenate([[0.0], np.cumsum([x[0] for x in powers])])
        np.testing.assert_allclose(d[[10, 20, 40, 50, 100]], [10.0, 16.476, 0.5655, -4.753, -5.99999998], atol=5e-4)
        assert np.all((d[1:] > 0) == (np.arange(1, 101) <= 40))
        state, errors = np.ones(23), []
        for _ in range(2 * window):
            state = a @ state + 0.5 * v
            errors.append(state[0] - 1)
        size: dict[str, Any] = {"pairs": 1, "window": window, "objective": Objective.FINAL}
        estimator = truncated_es(ONE, **size) if search else truncated_backprop(**size)
        got = sum_over(estimator, influence_balancing(2 * window), 0.5, 2)
        np.testing.assert_allclose(got / (2 * window), (errors[window - 1] + errors[-1]) * d[window], rtol=1e-9)

    def test_whole_random_episodes_are_the_gradient_of_a_loop(self) -> None:
        """Three particles with their own episodes, of 4 to 9 steps."""
        problem, theta = noisy_chaos((4, 9)), jnp.asarray(THETA2)
        estimator = estimators.backprop(pairs=3, horizon=9)
        state, (gradient, _, metrics) = first_estimate(estimator, problem, theta, jax.random.key(0))
        keys = [jax.random.fold_in(key, 1) for key in state.data_keys]
        horizons = [int(problem.horizon(key)) for key in keys]
        want = sum(exact_gradient(problem, theta, n, key) for n, key in zip(horizons, keys, strict=True))
        np.testing.assert_allclose(gradient, want / sum(horizons), rtol=1e-9)
        assert metrics["lost_gradients"] == 0.0

    def test_an_episode_that_ends_inside_a_window_is_cut_there(self) -> None:
        got = sum_over(truncated_backprop(pairs=1, window=10), influence_balancing(15), 0.5, 3)
        np.testing.assert_allclose(got, cut_gradient(), rtol=1e-12)

    def test_a_lost_particle_costs_only_its_own_gradient(self) -> None:
        """The square root of zero has no finite derivative; the loss of about half of the episodes has it."""
        problem = Toy(
            lambda theta, key: jax.random.key_data(key)[1] % 2 == 0,
            lambda theta, s, key: (s, 3.0 * theta + jnp.sqrt(jnp.where(s, 0.0, 1.0) + 0.0 * theta)),
            2,
        )
        estimator = estimators.backprop(pairs=8, horizon=2)
        _, (gradient, after, metrics) = first_estimate(estimator, problem, jnp.asarray(0.5), jax.random.key(0))
        lost = np.mean(np.asarray(after.particles))
        assert 0 < lost < 1
        assert metrics["lost_gradients"] == lost
        np.testing.assert_allclose(gradient, 3.0 * (1 - lost), rtol=1e-12)


@pytest.mark.parametrize(
    "estimator",
    [
        truncated_backprop(pairs=1, window=1),
        forward(pairs=1, window=1, noise=ONE),
        InverseVarianceMix(TWO, 2, 1),
        PESAnalytic(TWO, 2, 1),
    ],
    ids=["truncated-backprop", "forward", "mix", "pes-analytic"],
)
def test_a_loss_above_the_cap_has_no_slope(estimator: Any) -> None:
    """theta^2 = 0.49, at the cap of 0.2 for every sign."""
    problem = Toy(lambda theta, key: jnp.zeros(()), lambda theta, s, key: (s, theta**2), 1, loss_cap=0.2)
    got, _, metrics = episode_sum(estimator, problem, jnp.asarray(0.7), jax.random.key(0), 1)
    np.testing.assert_array_equal(got, 0.0)
    np.testing.assert_array_equal(metrics["clipped_fraction"], 1.0)


class TestForward:
    def test_an_orthonormal_basis_gives_the_gradient(self) -> None:
        """U8: directions sqrt(P) Q."""
        design = orthogonal_design(1.0, 1, 2)
        got = sum_over(forward(pairs=2, window=4, noise=design), keyless(12), THETA2, 3)
        exact = exact_gradient(keyless(12), jnp.asarray(THETA2), 12, jax.random.key(0))
        np.testing.assert_allclose(got, exact, rtol=1e-10)

    def test_it_is_the_limit_of_evolution(self) -> None:
        """U8: the difference falls with sigma^2; horizons 4 to 9, so episodes end inside windows."""
        problem, gaps = noisy_chaos((4, 9)), []
        exact = sum_over(forward(pairs=3, window=5, interval=3, noise=Waves(1e-4)), problem, THETA2, 4)
        assert np.max(np.abs(exact)) > 1.0
        for sigma in (1e-4, 1e-5):
            search = sum_over(gpes(Waves(sigma), pairs=3, window=5, interval=3), problem, THETA2, 4)
            gaps.append(np.max(np.abs(search - exact)))
        assert gaps[0] < 1e-2
        np.testing.assert_allclose(gaps[1] / gaps[0], 1e-2, rtol=0.05)

    def test_the_start_of_an_episode_has_a_tangent(self) -> None:
        problem = Toy(lambda theta, key: theta**2, lambda theta, s, key: (s, s), 1)
        got = sum_over(forward(pairs=1, window=1, noise=Design(1.0, np.ones((1, 1, 1)))), problem, 0.7, 1)
        np.testing.assert_allclose(got, 1.4, rtol=1e-12)

    def test_low_rank_directions_are_refused(self) -> None:
        with pytest.raises(InputError, match="expected dense noise"):
            forward(pairs=1, window=1, noise=LowRank(1.0))


class TestPESAnalytic:
    def test_it_is_exact(self) -> None:
        """U3: linear dynamics and quadratic loss, exact with a design."""
        design = orthogonal_design(0.1, 3, 1)
        got = sum_over(PESAnalytic(design, 3, 10), influence_balancing(30), 0.5, 3)
        np.testing.assert_allclose(got, 2198.493683274982, rtol=1e-12)

    def test_it_is_exact_where_episodes_end_inside_windows(self) -> None:
        """Three windows of 10 hold two episodes of 15, with four blocks of noise: 0-10 and 10-15, 0-5 and 5-15."""
        got = sum_over(PESAnalytic(orthogonal_design(0.1, 4, 1), 4, 10), influence_balancing(15), 0.5, 3)
        exact = exact_gradient(influence_balancing(15), jnp.asarray(0.5), 15, jax.random.key(0))
        np.testing.assert_allclose(got, 2 * exact, rtol=1e-11)

    def test_pairs_may_be_at_any_phase(self) -> None:
        """Four pairs with eps = sigma, their first episodes cut after 5, 10, 15 and 20 of 20 steps: each is exact for
        an episode of one block, and an estimate of 20 steps that holds an end falls back to PES, which is exact."""
        estimator = PESAnalytic(Design(0.1, np.full((4, 1, 1), 0.1)), 4, 20, Phases.SPREAD)
        got = sum_over(estimator, influence_balancing(20), 0.5, 1)
        exact = lambda n: exact_gradient(influence_balancing(20), jnp.asarray(0.5), n, jax.random.key(0))
        np.testing.assert_allclose(got, sum(map(exact, (5, 15, 10, 10, 15, 5, 20))) / 4, rtol=1e-11)

    def test_without_a_derivative_it_is_pes(self) -> None:
        """Loss theta^2, with nothing added but a slope that is not finite at theta. PES has g = xi eps / sigma^2 times
        2 theta for it; eps = sigma, then 2 sigma, so 1 and (1 + 2) 2 times 2 theta."""
        theta = 0.5
        problem = Toy(
            lambda theta, key: jnp.zeros(()),
            lambda theta, s, key: (s, theta**2 + 0.0 * jnp.sqrt(jnp.abs(theta - 0.5))),
            2,
        )
        noise = Design(0.1, np.asarray([[[0.1], [0.2]], [[0.1], [0.2]]]))
        total, _, metrics = episode_sum(PESAnalytic(noise, 2, 1), problem, jnp.asarray(theta), jax.random.key(0), 2)
        np.testing.assert_allclose(total, (1 + 6) * 2 * theta, rtol=1e-12)
        np.testing.assert_array_equal(metrics["lost_gradients"], 1.0)

    def test_noise_may_be_scaled_by_leaf(self) -> None:
        """The loss of a step is <c, theta>: without the window's own noise nothing is left of its differences, and two
        steps give 2 c whatever was drawn."""
        c = {"a": jnp.asarray([1.0, -2.0]), "b": jnp.asarray([0.5])}
        inner = lambda theta: jnp.sum(c["a"] * theta["a"]) + jnp.sum(c["b"] * theta["b"])
        problem = Toy(lambda theta, key: jnp.zeros(()), lambda theta, s, key: (s, inner(theta)), 2)
        estimator = PESAnalytic(Dense(0.1, scales=(("b", 3.0),)), 2, 1)
        theta = jax.tree.map(jnp.zeros_like, c)
        total, _, _ = episode_sum(estimator, problem, theta, jax.random.key(0), 2)
        for name, value in c.items():
            np.testing.assert_allclose(total[name], 2 * value, rtol=1e-10)

    def test_one_window_is_backpropagation(self) -> None:
        """No earlier noise: the estimate is the derivative itself, whatever the noise."""
        got = sum_over(PESAnalytic(Waves(0.05), 3, 12), keyless(12), THETA2, 1)
        exact = exact_gradient(keyless(12), jnp.asarray(THETA2), 12, jax.random.key(0))
        np.testing.assert_allclose(got, exact, rtol=1e-10)

    def test_all_states_of_a_pair_see_the_same_episode(self) -> None:
        """Linear and quadratic with a start of its own for every episode: with eps = sigma one pair is exact for it."""
        plain = influence_balancing(10)
        problem = Toy(lambda theta, key: 5.0 * hashed(key, theta.dtype) * jnp.arange(23.0), plain.step, 10)
        estimator, theta = PESAnalytic(Design(0.1, np.full((1, 2, 1), 0.1)), 1, 5), jnp.asarray(0.5)
        total, state, _ = episode_sum(estimator, problem, theta, jax.random.key(4), 2)
        own = jax.random.fold_in(state.evolution.data_keys[0], 1)
        np.testing.assert_allclose(total, exact_gradient(problem, theta, 10, own), rtol=1e-9)

    def test_its_signal_to_noise_is_that_of_the_pairs(self) -> None:
        """L = <c, theta_0> + <d, theta_1> at step 1: its window gives pair n eps_n <c, eps_n> / sigma^2 + d."""
        c, d, noise = np.array([1.0, -2.0]), np.array([0.5, 3.0]), Waves(0.1)
        g = np.zeros((2, 2, 2))
        g[1] = c, d
        total, _, metrics = episode_sum(PESAnalytic(noise, 3, 1), linear(g), jnp.zeros(2), jax.random.key(0), 2)
        eps = np.stack([noise.draw(None, n, 1, np.zeros(2)) for n in range(3)])
        each = eps * (eps @ c)[:, None] / 0.01 + d[None]
        np.testing.assert_allclose(total, each.mean(axis=0), rtol=1e-9)
        variance = np.sum(np.var(each, axis=0, ddof=1)) / 3
        want = np.sum(each.mean(axis=0) ** 2) / variance
        np.testing.assert_allclose(metrics["signal_to_noise"][1], want, rtol=1e-8)
