"""Derivatives and mixtures of derivatives with evolution strategies, in float64, against closed forms and jax.grad of
a plain loop (U3, U4, U6, U8, U11)."""

from collections.abc import Iterator
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
    hashed,
    influence_balancing,
    learning_rate,
    noisy_chaos,
    orthogonal_design,
    sum_over,
    unrolled_sum,
)

from learned_opt.errors import InputError
from meta_train import estimators
from meta_train.estimators.analytic import PESAnalytic
from meta_train.estimators.clock import Phases
from meta_train.estimators.credit import Objective
from meta_train.estimators.mix import InverseVarianceMix, inverse_variance
from meta_train.noise import Dense, LowRank

es_single, pes, gpes, forward, truncated_backprop, guided = (
    partial(getattr(estimators, name), phases=Phases.LOCKSTEP)
    for name in ("es_single", "pes", "gpes", "forward", "truncated_backprop", "guided")
)
THETA2 = np.array([0.3, 0.4])
ONE = Design(0.1, np.full((1, 1, 1), 0.1))


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


pytestmark = pytest.mark.quick_compilation


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

    @pytest.mark.parametrize(("window", "d"), [(10, 10.0), (40, 0.5655), (41, None), (100, -5.99999998)])
    def test_last_loss_of_a_window_has_the_sign_of_its_sensitivity(self, window: int, d: float | None) -> None:
        """U6: d_K = sum over k < K of (A^k v)[0], whose sign flips at K = 41; second window of an episode of two."""
        a = 0.5 * np.eye(23) + 0.5 * np.eye(23, k=1)
        v = np.where(np.arange(23) < 10, 1.0, -1.0)
        exact, power = 0.0, v
        for _ in range(window):
            exact, power = exact + power[0], a @ power
        assert d is None or exact == pytest.approx(d, abs=1e-4)
        assert (exact > 0) == (window <= 40)
        state = np.ones(23)
        for _ in range(2 * window):
            state = a @ state + 0.5 * v
        estimator = truncated_backprop(pairs=1, window=window, objective=Objective.FINAL)
        problem = influence_balancing(2 * window)
        first, both = (sum_over(estimator, problem, 0.5, n) for n in (1, 2))
        np.testing.assert_allclose((both - first) / (2 * window), (state[0] - 1) * exact, rtol=1e-9)

    def test_whole_random_episodes_are_the_gradient_of_a_loop(self) -> None:
        """Three particles with their own episodes, of 4 to 9 steps."""
        problem, theta = noisy_chaos((4, 9)), jnp.asarray(THETA2)
        estimator = estimators.backprop(pairs=3, horizon=9)
        state = estimator.init(problem, theta, jax.random.key(0))
        gradient, _, metrics = estimator.estimate(problem, theta, state)
        keys = [jax.random.fold_in(key, 1) for key in state.data_keys]
        horizons = [int(problem.horizon(key)) for key in keys]
        grad = jax.grad(unrolled_sum, argnums=1)
        want = sum(grad(problem, theta, n, key) for n, key in zip(horizons, keys, strict=True))
        np.testing.assert_allclose(gradient, want / sum(horizons), rtol=1e-9)
        assert metrics["lost_gradients"] == 0.0

    def test_an_episode_that_ends_inside_a_window_is_cut_there(self) -> None:
        """Windows of 10, episodes of 15: the parts 0-10, 10-15, 0-5 and 5-15, each from a constant state."""
        problem = influence_balancing(15)
        total = 0.0
        for first, last in ((0, 10), (10, 15), (0, 5), (5, 15)):

            def part(theta: Any, first: int = first, last: int = last) -> Any:
                state, value = jnp.ones(23), 0.0
                for t in range(last):
                    state, loss = problem.step(theta, state, None)
                    state = jax.lax.stop_gradient(state) if t < first else state
                    value = value + (loss if t >= first else 0.0)
                return value

            total += jax.grad(part)(0.5)
        got = sum_over(truncated_backprop(pairs=1, window=10), problem, 0.5, 3)
        np.testing.assert_allclose(got, total, rtol=1e-12)

    def test_a_lost_particle_costs_only_its_own_gradient(self) -> None:
        """The square root of zero has no finite derivative; the loss of about half of the episodes has it."""
        problem = Toy(
            lambda theta, key: jax.random.key_data(key)[1] % 2 == 0,
            lambda theta, s, key: (s, 3.0 * theta + jnp.sqrt(jnp.where(s, 0.0, 1.0) + 0.0 * theta)),
            2,
        )
        estimator = estimators.backprop(pairs=8, horizon=2)
        state = estimator.init(problem, jnp.asarray(0.5), jax.random.key(0))
        gradient, after, metrics = estimator.estimate(problem, jnp.asarray(0.5), state)
        lost = np.mean(np.asarray(after.particles))
        assert 0 < lost < 1
        assert metrics["lost_gradients"] == lost
        np.testing.assert_allclose(gradient, 3.0 * (1 - lost), rtol=1e-12)


class TestForward:
    def test_an_orthonormal_basis_gives_the_gradient(self) -> None:
        """U8: directions sqrt(P) Q."""
        design = orthogonal_design(1.0, 1, 2)
        got = sum_over(forward(pairs=2, window=4, noise=design), keyless(12), THETA2, 3)
        exact = jax.grad(unrolled_sum, argnums=1)(keyless(12), jnp.asarray(THETA2), 12, jax.random.key(0))
        np.testing.assert_allclose(got, exact, rtol=1e-10)

    @pytest.mark.parametrize("interval", [None, 3])
    def test_it_is_the_limit_of_evolution(self, interval: int | None) -> None:
        """U8: the difference falls with sigma^2; horizons 4 to 9, so episodes end inside windows."""
        gaps = []
        for sigma in (1e-4, 1e-5):
            noise = Waves(sigma)
            make = es_single if interval is None else partial(gpes, interval=interval)
            search = sum_over(make(noise, pairs=3, window=5), noisy_chaos((4, 9)), THETA2, 4)
            exact = sum_over(forward(pairs=3, window=5, interval=interval, noise=noise), noisy_chaos((4, 9)), THETA2, 4)
            gaps.append(np.max(np.abs(search - exact)))
            assert np.max(np.abs(exact)) > 1.0
        assert gaps[0] < 1e-2
        np.testing.assert_allclose(gaps[1] / gaps[0], 1e-2, rtol=0.05)

    def test_the_start_of_an_episode_has_a_tangent(self) -> None:
        problem = Toy(lambda theta, key: theta**2, lambda theta, s, key: (s, s), 1)
        got = sum_over(forward(pairs=1, window=1, noise=Design(1.0, np.ones((1, 1, 1)))), problem, 0.7, 1)
        np.testing.assert_allclose(got, 1.4, rtol=1e-12)


class TestPESAnalytic:
    def test_it_is_exact(self) -> None:
        """U3: linear dynamics and quadratic loss, exact with a design."""
        design = orthogonal_design(0.1, 3, 1)
        got = sum_over(PESAnalytic(design, 3, 10), influence_balancing(30), 0.5, 3)
        np.testing.assert_allclose(got, 2198.493683274982, rtol=1e-12)

    def test_one_window_is_backpropagation(self) -> None:
        """No earlier noise: the estimate is the derivative itself, whatever the noise."""
        got = sum_over(PESAnalytic(Waves(0.05), 3, 12), keyless(12), THETA2, 1)
        exact = jax.grad(unrolled_sum, argnums=1)(keyless(12), jnp.asarray(THETA2), 12, jax.random.key(0))
        np.testing.assert_allclose(got, exact, rtol=1e-10)

    def test_all_states_of_a_pair_see_the_same_episode(self) -> None:
        """Linear and quadratic with a start of its own for every episode: with eps = sigma one pair is exact for it."""
        plain = influence_balancing(10)
        problem = Toy(lambda theta, key: 5.0 * hashed(key, theta.dtype) * jnp.arange(23.0), plain.step, 10)
        estimator, theta = PESAnalytic(Design(0.1, np.full((1, 2, 1), 0.1)), 1, 5), jnp.asarray(0.5)
        total, state, _ = episode_sum(estimator, problem, theta, jax.random.key(4), 2)
        own = jax.random.fold_in(state.evolution.data_keys[0], 1)
        np.testing.assert_allclose(total, jax.grad(unrolled_sum, argnums=1)(problem, theta, 10, own), rtol=1e-9)

    def test_windows_must_be_parts_of_episodes(self) -> None:
        for problem, phases in (
            (influence_balancing(25), Phases.LOCKSTEP),
            (noisy_chaos((10, 20)), Phases.LOCKSTEP),
            (influence_balancing(30), Phases.SPREAD),
        ):
            with pytest.raises(InputError, match="expects"):
                PESAnalytic(Dense(0.1), 2, 10, phases).init(problem, jnp.zeros(()), jax.random.key(0))


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
