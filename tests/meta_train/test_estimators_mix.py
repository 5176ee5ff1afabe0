"""Mixtures of derivatives with evolution strategies and guided noise, in float64, against closed forms (U11)."""

from functools import partial

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
    first_estimate,
    influence_balancing,
    noisy_chaos,
    sum_over,
)

from learned_opt.errors import InputError
from meta_train import estimators
from meta_train.estimators.clock import Phases
from meta_train.estimators.credit import Objective
from meta_train.estimators.mix import InverseVarianceMix, inverse_variance
from meta_train.noise import Dense, LowRank

es_single, truncated_backprop, guided = (
    partial(getattr(estimators, name), phases=Phases.LOCKSTEP) for name in ("es_single", "truncated_backprop", "guided")
)
THETA2 = np.array([0.3, 0.4])
TWO = Design(0.1, np.full((2, 1, 1), 0.1))
"""Two pairs; with eps = sigma each is exact for a quadratic loss."""


pytestmark = [pytest.mark.quick_compilation, pytest.mark.usefixtures("x64")]


class TestMix:
    def test_weights_are_inverse_variances(self) -> None:
        """U11: columns with variances (v1, v2) known exactly; the mix of two means is that of Gauss."""
        e = np.array([[1.0, 5.0], [3.0, 5.0]])  # means 2, 5; variances 2, 0
        r = np.array([[6.0, 1.0], [10.0, 9.0]])  # means 8, 5; variances 8, 32
        got, share = inverse_variance(jnp.asarray(e), jnp.asarray(r), jnp.ones(2, bool))
        np.testing.assert_allclose(share, [0.2, 0.0], rtol=1e-12)
        np.testing.assert_allclose(got, [2 * 0.8 + 8 * 0.2, 5.0], rtol=1e-12)

    def test_variance_of_the_mix(self) -> None:
        """U11: v1 v2 / (v1 + v2) where variances are well known."""
        rng = np.random.default_rng(0)
        e, r = rng.normal(3.0, 1.0, (64, 4000)), rng.normal(3.0, 2.0, (64, 4000))
        got, _ = inverse_variance(jnp.asarray(e), jnp.asarray(r), jnp.ones(64, bool))
        np.testing.assert_allclose(np.var(got) * 64, 4 / 5, rtol=0.1)
        np.testing.assert_allclose(np.mean(got), 3.0, atol=0.02)

    def test_exploding_and_lost_gradients_hand_the_weight_to_search(self) -> None:
        e = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
        huge = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3))) * 1e200
        for r, counts in ((huge, jnp.ones(6, bool)), (jnp.zeros((6, 3)), jnp.arange(6) < 1)):
            got, share = inverse_variance(e, r, counts)
            np.testing.assert_allclose(got, jnp.mean(e, axis=0), rtol=1e-12)
            np.testing.assert_array_equal(share, 0.0)

    def test_both_parts_are_gradients_of_the_same_smoothed_loss(self) -> None:
        """L = theta^3 with eps = +-sigma: search gives 3 theta^2 + sigma^2, smoothed backpropagation 3 theta^2 + 3
        sigma^2 (equal in expectation over Gaussian noise, 3 sigma^2); neither varies, so the mix is their mean."""
        problem = Toy(lambda theta, key: jnp.zeros(()), lambda theta, s, key: (s, theta**3), 1)
        design = Design(0.3, np.full((2, 1, 1), 0.3))
        got = sum_over(InverseVarianceMix(design, 2, 1), problem, 0.7, 1)
        np.testing.assert_allclose(got, 3 * 0.49 + 2 * 0.09, rtol=1e-12)

    def test_a_long_unroll_trusts_search_a_short_one_backpropagation(self) -> None:
        """Doubling map: derivatives grow as 2^t, the loss stays bounded."""
        chaos = lambda horizon: Toy(
            lambda theta, key: theta, lambda theta, s, key: (jnp.sin(4 * s), 1 - jnp.cos(3 * s)), horizon
        )
        weights = []
        for horizon in (1, 24):
            estimator = InverseVarianceMix(Dense(0.1), 64, horizon)
            _, _, metrics = episode_sum(estimator, chaos(horizon), jnp.asarray(0.7), jax.random.key(0), 1)
            weights.append(float(metrics["weight_of_backprop"][0]))
        assert weights[0] > 0.9
        assert weights[1] < 0.01

    def test_truncated_windows_agree_with_truncated_backpropagation(self) -> None:
        got = sum_over(InverseVarianceMix(Waves(0.05), 3, 10), influence_balancing(30), 0.5, 3)
        want = sum_over(truncated_backprop(pairs=3, window=10), influence_balancing(30), 0.5, 3)
        np.testing.assert_allclose(got, want, rtol=1e-9)

    def test_episodes_may_end_inside_windows(self) -> None:
        """Neither estimate varies, both are exact: half of each."""
        got, _, metrics = episode_sum(
            InverseVarianceMix(TWO, 2, 10), influence_balancing(15), jnp.asarray(0.5), jax.random.key(0), 3
        )
        np.testing.assert_allclose(got, cut_gradient(), rtol=1e-11)
        assert np.all(np.isfinite(metrics["weight_of_backprop"]))

    def test_pairs_with_lost_gradients_count_in_the_search_alone(self) -> None:
        """e = (1, 3, 5), r = (2, 4, lost): v_e = 4 / 3 and v_r = 2 / 2 of the means 3 and 3."""
        e, r = jnp.asarray([[1.0], [3.0], [5.0]]), jnp.asarray([[2.0], [5.0], [0.0]])
        got, share = inverse_variance(e, r, jnp.asarray([True, True, False]))
        weight = (4 / 3) / (4 / 3 + 4.5 / 2)
        np.testing.assert_allclose(share, [weight], rtol=1e-12)
        np.testing.assert_allclose(got, [(1 - weight) * 3 + weight * 3.5], rtol=1e-12)

    def test_a_pair_without_a_derivative_adds_no_variance(self) -> None:
        """Loss 3 theta: the derivatives that are finite do not vary, so they have all the weight."""
        problem = Toy(
            lambda theta, key: jax.random.key_data(key)[1] % 2 == 0,
            lambda theta, s, key: (s, 3.0 * theta + jnp.sqrt(jnp.where(s, 0.0, 1.0) + 0.0 * theta)),
            1,
        )
        estimator = InverseVarianceMix(Waves(0.1), 8, 1)
        got, state, metrics = episode_sum(estimator, problem, jnp.asarray(0.5), jax.random.key(0), 1)
        lost = np.mean(np.asarray(state.particles[:, 0]))
        assert 0 < lost < 1
        np.testing.assert_array_equal(metrics["lost_gradients"], lost)
        np.testing.assert_allclose(got, 3.0, rtol=1e-12)

    def test_an_overflowing_search_hands_the_weight_to_backpropagation(self) -> None:
        e, r = jnp.asarray([[1e200], [-1e200]]), jnp.asarray([[1.0], [2.0]])
        got, share = inverse_variance(e, r, jnp.ones(2, bool))
        np.testing.assert_array_equal(share, 1.0)
        np.testing.assert_allclose(got, [1.5], rtol=1e-12)

    def test_what_cannot_be_mixed_is_refused(self) -> None:
        with pytest.raises(InputError, match="at least 2"):
            InverseVarianceMix(Dense(0.1), 1, 5)
        with pytest.raises(InputError, match="dense noise"):
            InverseVarianceMix(LowRank(0.1), 2, 5)


class TestGuided:
    def test_equal_shares_are_plain_noise(self) -> None:
        """alpha = 1: with P = 1, as for any alpha, the noise is N(0, sigma^2), and one pair is exact up to eps^2."""
        estimator = guided(Dense(0.1), pairs=1, window=10, alpha=0.3)
        problem, theta = influence_balancing(30), jnp.asarray(0.5)
        total, state, metrics = episode_sum(estimator, problem, theta, jax.random.key(0), 3)
        eps = float(state.evolution.eps[0, 0])
        np.testing.assert_allclose(total, 2198.493683274982 * eps**2 / 0.01, rtol=1e-9)
        np.testing.assert_allclose(metrics["surrogate_cosine"], 1.0, rtol=1e-9)

    def test_a_pair_keeps_its_noise_while_the_subspace_moves(self) -> None:
        """Sums over windows are what one window of the whole episode gives with the stored noise."""
        problem, theta = noisy_chaos(12), jnp.asarray(THETA2)
        estimator = guided(Dense(0.05), pairs=2, window=4)
        total, state, _ = episode_sum(estimator, problem, theta, jax.random.key(0), 3)
        noise = Design(0.05, np.asarray(state.evolution.eps)[:, None])
        whole, _, _ = episode_sum(es_single(noise, pairs=2, window=12), problem, theta, jax.random.key(0), 1)
        np.testing.assert_allclose(total, whole, rtol=1e-9)

    def test_surrogates_are_of_the_objective(self) -> None:
        """Losses 5 theta, then -theta: the mean loss grows with theta, the last one falls."""
        losses = lambda theta, s, key: (s + 1, theta[0] * jnp.where(s == 0, 5.0, -1.0))
        problem = Toy(lambda theta, key: jnp.zeros((), jnp.int32), losses, 2)
        for objective, sign in ((Objective.MEAN, 1.0), (Objective.FINAL, -1.0)):
            estimator = guided(Dense(0.1), pairs=1, window=2, objective=objective)
            _, (_, state, _) = first_estimate(estimator, problem, jnp.asarray([0.5]), jax.random.key(0))
            np.testing.assert_allclose(state.history, [[sign]], rtol=1e-12)

    def test_history_holds_the_last_gradients(self) -> None:
        problem, theta = noisy_chaos(12), jnp.asarray(THETA2)
        estimator = guided(Dense(0.05), pairs=2, window=4, subspace=2)
        state = estimator.init(problem, theta, jax.random.key(0))
        surrogate = truncated_backprop(pairs=2, window=4)
        mean, wanted = surrogate.init(problem, theta, jax.random.key(0)), []
        advance = jax.jit(
            lambda mean, state: (
                surrogate.estimate(problem, theta, mean)[:2],
                estimator.estimate(problem, theta, state)[1],
            )
        )
        for _ in range(3):
            (gradient, mean), state = advance(mean, state)
            wanted.append(gradient / jnp.linalg.norm(gradient))
        np.testing.assert_allclose(state.history, jnp.stack(wanted[:0:-1]), rtol=1e-9)
