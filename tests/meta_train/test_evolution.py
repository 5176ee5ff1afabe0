"""The ES family against closed forms: U1, U2, U3, U4, U7 and U9 of the literature's checks, in float64.

Sums of an episode are compared, so estimates (means per counted inner step) are multiplied by the window.
"""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import (
    Design,
    Toy,
    Waves,
    episode_sum,
    exact_gradient,
    first_draws,
    first_estimate,
    hashed,
    influence_balancing,
    learning_rate,
    noisy_chaos,
    orthogonal_design,
    sum_over,
    unrolled_sum,
)

from meta_train import estimators
from meta_train.estimators.clock import Phases
from meta_train.estimators.evolution import Evolution
from meta_train.noise import Dense

# Sums over windows are whole episodes when all pairs begin together.
es_single, pes, gpes, truncated_es = (
    partial(make, phases=Phases.LOCKSTEP)
    for make in (estimators.es_single, estimators.pes, estimators.gpes, estimators.truncated_es)
)


pytestmark = [pytest.mark.quick_compilation, pytest.mark.usefixtures("x64")]


SIGMA = 0.1
ONE = Design(SIGMA, np.full((1, 1, 1), SIGMA))
INFLUENCE_SUMS = {10: 192.5, 20: 1261.3667, 30: 2198.493683274982, 50: 2408.0040, 100: 3571.6306}


class TestInfluenceBalancing:
    """Linear dynamics and quadratic loss: every unbiased member is exact with a deterministic design (U3, U7)."""

    @pytest.mark.parametrize("window", [1, 10])
    def test_es_single_is_exact_with_one_pair(self, window: int) -> None:
        got = sum_over(es_single(ONE, pairs=1, window=window), influence_balancing(30), 0.5, 30 // window)
        np.testing.assert_allclose(got, INFLUENCE_SUMS[30], rtol=1e-12)

    @pytest.mark.parametrize(("horizon", "window", "rtol"), [(30, 1, 1e-12), (20, 10, 1e-7), (100, 10, 1e-7)])
    def test_pes_is_exact(self, horizon: int, window: int, rtol: float) -> None:
        design = orthogonal_design(SIGMA, horizon // window, 1)
        estimator = pes(design, pairs=horizon // window, window=window)
        got = sum_over(estimator, influence_balancing(horizon), 0.5, horizon // window)
        np.testing.assert_allclose(got, INFLUENCE_SUMS[horizon], rtol=rtol)

    def test_full_es_is_exact(self) -> None:
        got = sum_over(estimators.full_es(ONE, pairs=1, horizon=30), influence_balancing(30), 0.5, 1)
        np.testing.assert_allclose(got, INFLUENCE_SUMS[30], rtol=1e-12)

    @pytest.mark.parametrize("interval", [5, 7])
    def test_credit_is_exact_where_an_episode_ends_inside_a_window(self, interval: int) -> None:
        """Three windows of 10 hold two episodes of 15; a rule that keeps or drops noise at the reset misses."""
        horizon, blocks = 15, -(-15 // interval)
        estimator = gpes(orthogonal_design(SIGMA, blocks, 1), pairs=blocks, window=10, interval=interval)
        got = sum_over(estimator, influence_balancing(horizon), 0.5, 3)
        exact = exact_gradient(influence_balancing(horizon), jnp.asarray(0.5), horizon, jax.random.key(0))
        np.testing.assert_allclose(got, 2 * exact, rtol=1e-12)

    def test_single_noise_is_exact_where_an_episode_ends_inside_a_window(self) -> None:
        estimator = es_single(ONE, pairs=1, window=10)
        got = sum_over(estimator, influence_balancing(15), 0.5, 3)
        exact = exact_gradient(influence_balancing(15), jnp.asarray(0.5), 15, jax.random.key(0))
        np.testing.assert_allclose(got, 2 * exact, rtol=1e-12)

    def test_truncated_es_of_one_step_sees_only_the_last_step(self) -> None:
        """d s[0] / d theta through one step is v[0] = 1, so the estimate is s[0] - 1 at the mean state."""
        got = sum_over(truncated_es(ONE, pairs=1, window=1), influence_balancing(30), 0.5, 30)
        a, v = 0.5 * np.eye(23) + 0.5 * np.eye(23, k=1), np.where(np.arange(23) < 10, 1.0, -1.0)
        state, errors = np.ones(23), []
        for _ in range(30):
            state = a @ state + 0.5 * v
            errors.append(state[0] - 1.0)
        np.testing.assert_allclose(got, np.sum(errors), rtol=1e-11)


class TestSpreadPhases:
    """Pairs that are at different parts of their episodes."""

    def test_pairs_are_evenly_spread_after_their_first_episodes(self) -> None:
        estimator = estimators.es_single(Waves(0.05), pairs=5, window=4)
        _, state, _ = episode_sum(estimator, influence_balancing(20), jnp.asarray(0.5), jax.random.key(0), 5)
        np.testing.assert_array_equal(np.sort(state.clock.t), [4, 8, 12, 16, 20])

    @pytest.mark.parametrize("window", [3, 20])
    def test_a_period_of_estimates_is_exact(self, window: int) -> None:
        """Once spread, any 20 steps in a row hold every part of an episode of 20, whole or in two pieces."""
        estimator = estimators.es_single(Design(SIGMA, np.full((4, 1, 1), SIGMA)), pairs=4, window=window)
        both, first = (sum_over(estimator, influence_balancing(20), 0.5, n * 20 // window) for n in (6, 3))
        np.testing.assert_allclose(both - first, 3 * INFLUENCE_SUMS[20], rtol=1e-7)

    def test_short_horizons_fit_in_a_long_window(self) -> None:
        whole = Evolution(Waves(0.05), pairs=4, window=24, interval=2, phases=Phases.SPREAD)
        steps = Evolution(Waves(0.05), pairs=4, window=1, interval=2, phases=Phases.SPREAD)
        got, want = sum_over(whole, noisy_chaos((2, 5)), THETA2, 1), sum_over(steps, noisy_chaos((2, 5)), THETA2, 24)
        np.testing.assert_allclose(got, want, rtol=1e-10)


class TestScalarLearningRate:
    """The smoothed gradients of a non-linear problem by Gauss-Hermite quadrature over the noise (U4)."""

    THETA, SIGMA, HORIZON = 0.35, 0.2, 6

    def expectation(self, make: Any, blocks: int, nodes: int, window: int) -> float:
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
        grid = np.array(list(itertools.product(points, repeat=blocks))) * self.SIGMA
        weight = np.array([np.prod(w) for w in itertools.product(weights / weights.sum(), repeat=blocks)])
        problem = learning_rate(self.HORIZON)

        def one(draws: Any) -> Any:
            estimator = make(Design(self.SIGMA, draws.reshape(1, blocks, 1)))
            state = estimator.init(problem, jnp.asarray(self.THETA), jax.random.key(0))

            def advance(state: Any, _: None) -> Any:
                gradient, state, _ = estimator.estimate(problem, jnp.asarray(self.THETA), state)
                return state, window * gradient

            return jnp.sum(jax.lax.scan(advance, state, None, length=self.HORIZON // window)[1])

        return float(weight @ jax.jit(jax.vmap(one))(jnp.asarray(grid)))

    def test_es_single_smooths_the_whole_episode(self) -> None:
        got = self.expectation(lambda d: es_single(d, pairs=1, window=2), 1, 10, 2)
        assert got == pytest.approx(-6.669142677934158, rel=1e-12)

    def test_full_es_smooths_the_whole_episode(self) -> None:
        got = self.expectation(lambda d: estimators.full_es(d, pairs=1, horizon=6), 1, 10, 6)
        assert got == pytest.approx(-6.669142677934158, rel=1e-12)

    @pytest.mark.parametrize(
        ("window", "nodes", "value"),
        [(2, 5, -2.529969806362096), (1, 3, -1.827126140591899)],
    )
    def test_pes_smooths_every_window_by_itself(self, window: int, nodes: int, value: float) -> None:
        got = self.expectation(lambda d: pes(d, pairs=1, window=window), 6 // window, nodes, window)
        assert got == pytest.approx(value, rel=1e-12)

    def test_truncated_es_is_biased_as_derived(self) -> None:
        got = self.expectation(lambda d: truncated_es(d, pairs=1, window=2), 1, 10, 2)
        assert got == pytest.approx(-1.6350673991381912, rel=1e-12)

    def test_small_noise_gives_the_exact_derivative(self) -> None:
        exact = -1.5042831238993317
        for make in (es_single, pes):
            estimator = make(orthogonal_design(1e-4, 3, 1), pairs=3, window=2)
            if make is es_single:
                estimator = make(Design(1e-4, np.full((1, 1, 1), 1e-4)), pairs=1, window=2)
            got = sum_over(estimator, learning_rate(6), self.THETA, 3)
            assert got == pytest.approx(exact, rel=1e-6)


def test_the_start_of_an_episode_is_credited_too() -> None:
    """The state that an episode starts from may depend on theta: loss theta^2, set at the reset."""
    problem = Toy(lambda theta, key: theta**2, lambda theta, s, key: (s, s), 1)
    estimator = estimators.full_es(ONE, pairs=1, horizon=1)
    np.testing.assert_allclose(sum_over(estimator, problem, 0.7, 1), 1.4, rtol=1e-12)


class TestSmoothing:
    """E over the noise of one-step losses (U2)."""

    def test_it_matches_the_closed_form(self) -> None:
        theta, sigma = 0.7, 0.3
        points, weights = np.polynomial.hermite_e.hermegauss(20)

        def one(which: Any, point: Any) -> Any:
            losses = lambda t: jnp.stack([t**3, jnp.cos(4.0 * t), 1.5 * t**2 + 0.3 * t])
            problem = Toy(lambda theta, key: jnp.zeros(()), lambda theta, s, key: (s, losses(theta)[which]), 1)
            estimator = estimators.full_es(Design(sigma, jnp.reshape(sigma * point, (1, 1, 1))), pairs=1, horizon=1)
            state = estimator.init(problem, jnp.asarray(theta), jax.random.key(0))
            return estimator.estimate(problem, jnp.asarray(theta), state)[0]

        each = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(jnp.arange(3), jnp.asarray(points))
        cubic, wave = 3 * theta**2 + 3 * sigma**2, -4.0 * np.sin(4.0 * theta) * np.exp(-8.0 * sigma**2)
        np.testing.assert_allclose(each @ (weights / weights.sum()), [cubic, wave, 3.0 * theta + 0.3], rtol=1e-12)


THETA2 = np.array([0.3, 0.4])
episode_loss = jax.jit(unrolled_sum, static_argnums=(0, 2))


class TestPathwise:
    """Identities that hold for each draw of the noise, at fixed theta (U1)."""

    @pytest.mark.parametrize("window", [1, 4])
    def test_windows_of_es_single_add_up_to_full_es(self, window: int) -> None:
        noise, problem = Waves(0.05), noisy_chaos(12)
        windows = sum_over(es_single(noise, pairs=3, window=window), problem, THETA2, 12 // window)
        whole = sum_over(estimators.full_es(noise, pairs=3, horizon=12), problem, THETA2, 1)
        np.testing.assert_allclose(windows, whole, rtol=1e-10)

    def test_long_interval_is_es_single(self) -> None:
        noise, problem = Waves(0.05), noisy_chaos(12)
        one = sum_over(gpes(noise, pairs=3, window=4, interval=12), problem, THETA2, 6)
        other = sum_over(es_single(noise, pairs=3, window=4), problem, THETA2, 6)
        np.testing.assert_allclose(one, other, rtol=1e-12)

    @pytest.mark.parametrize("make", [pes, es_single, truncated_es])
    def test_all_agree_when_the_window_is_the_horizon(self, make: Any) -> None:
        noise, problem = Waves(0.05), noisy_chaos(12)
        got = sum_over(make(noise, pairs=3, window=12), problem, THETA2, 2)
        whole = sum_over(estimators.full_es(noise, pairs=3, horizon=12), problem, THETA2, 2)
        np.testing.assert_allclose(got, whole, rtol=1e-12)

    @pytest.mark.parametrize("make", [pes, truncated_es])
    def test_all_agree_in_the_first_window(self, make: Any) -> None:
        noise, problem = Waves(0.05), noisy_chaos(12)
        got = sum_over(make(noise, pairs=3, window=4), problem, THETA2, 1)
        np.testing.assert_allclose(got, sum_over(es_single(noise, pairs=3, window=4), problem, THETA2, 1), rtol=1e-12)

    @pytest.mark.parametrize("interval", [None, 5])
    def test_windows_may_be_cut_anywhere(self, interval: int | None) -> None:
        """Horizons of 4 to 9, so that every pair is at its own phase: 2 windows of 15 are 30 of 1."""
        totals = []
        for window in (15, 1):
            estimator = Evolution(Waves(0.05), pairs=4, window=window, interval=interval)
            totals.append(sum_over(estimator, noisy_chaos((4, 9)), THETA2, 30 // window))
        np.testing.assert_allclose(totals[1], totals[0], rtol=1e-10)

    def test_pairs_do_not_influence_each_other(self) -> None:
        """What the third pair adds to two is what a single pair with its noise gives."""
        problem = learning_rate(7)  # no key enters, so a pair differs from another by its noise alone
        few = sum_over(pes(Waves(0.05), pairs=2, window=5), problem, 0.3, 4)
        more = sum_over(pes(Waves(0.05), pairs=3, window=5), problem, 0.3, 4)
        third = sum_over(pes(Waves(0.05, skip=2), pairs=1, window=5), problem, 0.3, 4)
        np.testing.assert_allclose(3 * more - 2 * few, third, rtol=1e-8)

    @pytest.mark.parametrize("make", [pes, es_single, truncated_es])
    def test_a_loss_without_theta_gives_exactly_zero(self, make: Any) -> None:
        problem = Toy(
            lambda theta, key: hashed(key, theta.dtype),
            lambda theta, s, key: (jnp.sin(3 * s) + hashed(key, s.dtype), s**2),
            (3, 7),
        )
        assert np.all(sum_over(make(Waves(0.1), pairs=5, window=4), problem, THETA2, 5) == 0.0)

    def test_a_tree_is_its_flat_vector(self) -> None:
        problem = noisy_chaos(12)
        tree_problem = Toy(
            problem.reset, lambda theta, s, key: problem.step(jnp.stack([theta["b"], theta["a"]]), s, key), 12
        )
        tree_problem.reset = lambda theta, key: problem.reset(theta["b"], key)
        estimator = pes(Dense(0.05), pairs=3, window=4)
        tree = {"a": jnp.asarray(THETA2[1]), "b": jnp.asarray(THETA2[0])}
        got, _, _ = episode_sum(estimator, tree_problem, tree, jax.random.key(0), 3)
        # Leaves in the order of their names, "a" first.
        swapped = Toy(problem.reset, lambda theta, s, key: problem.step(theta[::-1], s, key), 12)
        want, _, _ = episode_sum(estimator, swapped, jnp.asarray(THETA2[::-1].copy()), jax.random.key(0), 3)
        np.testing.assert_allclose(np.stack([got["a"], got["b"]]), want, rtol=1e-12)

    def test_credit_of_pes_starts_anew_with_each_episode(self) -> None:
        estimator = pes(Waves(0.05), pairs=3, window=4)
        _, state, _ = episode_sum(estimator, noisy_chaos(12), jnp.asarray(THETA2), jax.random.key(0), 4)
        block = state.clock.block
        draw = jax.vmap(estimator.noise.draw, (0, 0, 0, None))
        newest = draw(state.noise_keys, jnp.arange(3), block, jnp.asarray(THETA2))
        np.testing.assert_array_equal(block, 4)
        np.testing.assert_allclose(state.xi, newest, rtol=1e-12)


class TestConventions:
    """What is counted, and how (U9)."""

    def test_estimates_are_means_over_counted_steps(self) -> None:
        """Full ES over episodes of unequal length: the mean over steps taken, idle steps not counted."""
        theta = jnp.asarray(THETA2)
        problem = noisy_chaos((4, 9))
        estimator = estimators.full_es(Dense(0.05), pairs=6, horizon=9)
        state, (gradient, _, metrics) = first_estimate(estimator, problem, theta, jax.random.key(0))
        total, losses, steps = 0.0, 0.0, 0
        for data_key, eps in zip(state.data_keys, first_draws(Dense(0.05), state, theta), strict=True):
            key = jax.random.fold_in(data_key, 1)
            horizon = int(problem.horizon(key))
            plus, minus = (float(episode_loss(problem, theta + s * eps, horizon, key)) for s in (1, -1))
            total = total + eps * (plus - minus) / (2 * 0.05**2)
            losses, steps = losses + (plus + minus) / 2, steps + horizon
        np.testing.assert_allclose(gradient, total / steps, rtol=1e-9)
        np.testing.assert_allclose(metrics["meta_loss"], losses / steps, rtol=1e-9)

    def test_a_lost_particle_costs_only_its_own_signal(self) -> None:
        """theta[0] > 0.3 makes a NaN: that half of each pair counts as the cap, finite, and is reported."""

        def step(theta: Any, s: Any, key: Any) -> Any:
            return s, jnp.where(theta[0] > 0.3, jnp.nan, theta[0] ** 2 + theta[1])

        problem = Toy(lambda theta, key: jnp.zeros(()), step, 5, loss_cap=2.0)
        theta = jnp.asarray(THETA2)
        estimator = es_single(Dense(0.05), pairs=4, window=5)
        state, (gradient, _, metrics) = first_estimate(estimator, problem, theta, jax.random.key(0))
        eps = first_draws(Dense(0.05), state, theta)
        loss = lambda t: np.where(t[:, 0] > 0.3, 2.0, np.minimum(t[:, 0] ** 2 + t[:, 1], 2.0))
        delta = loss(THETA2 + eps) - loss(THETA2 - eps)
        np.testing.assert_allclose(gradient, np.mean(eps * delta[:, None], axis=0) / (2 * 0.05**2), rtol=1e-9)
        assert metrics["lost_fraction"] == 0.5

    def test_losses_above_the_cap_are_clipped_before_differences(self) -> None:
        problem = noisy_chaos(12, loss_cap=0.5)
        theta = jnp.asarray(THETA2)
        estimator = es_single(Dense(0.05), pairs=4, window=12)
        _, (_, _, metrics) = first_estimate(estimator, problem, theta, jax.random.key(0))
        assert 0.0 < metrics["clipped_fraction"] < 1.0
        assert metrics["delta_abs_max"] <= 0.5
        assert metrics["meta_loss"] <= 0.5


@pytest.mark.parametrize("pairs", [1, 4])
def test_inner_steps_count_both_signs(pairs: int) -> None:
    assert pes(Dense(0.1), pairs=pairs, window=7).inner_steps == 14 * pairs
    assert truncated_es(Dense(0.1), pairs=pairs, window=7).inner_steps == 21 * pairs
