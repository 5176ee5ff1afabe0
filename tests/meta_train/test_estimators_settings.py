"""Objectives, shapings, phases, burn-in, stored noise, devices and diagnostics of the family (U1, U9, U12)."""

from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from problems import (
    Design,
    Toy,
    Waves,
    episode_sum,
    exact_gradient,
    first_draws,
    first_estimate,
    influence_balancing,
    noisy_chaos,
    orthogonal_design,
    sum_over,
)

from meta_train import estimators
from meta_train.estimators import diagnostics
from meta_train.estimators.burn_in import BurnIn
from meta_train.estimators.clock import Phases, Tick
from meta_train.estimators.credit import Draws, Objective
from meta_train.estimators.objectives import Relative, Validated
from meta_train.estimators.reference import Watched
from meta_train.estimators.shaping import Shaping, shape
from meta_train.estimators.unroll import Seen
from meta_train.horizon import LogUniform
from meta_train.noise import Dense
from meta_train.problem import TaskProblem
from tasks.task import Variables

es_single, pes, gpes, truncated_es = (
    partial(make, phases=Phases.LOCKSTEP)
    for make in (estimators.es_single, estimators.pes, estimators.gpes, estimators.truncated_es)
)
THETA2 = np.array([0.3, 0.4])
SIGMA = 0.1
ONE = Design(SIGMA, np.full((1, 1, 1), SIGMA))


pytestmark = [pytest.mark.quick_compilation, pytest.mark.usefixtures("x64")]


@cache
def sum_of_15() -> Any:
    """Derivative of the summed loss of 15 steps of influence balancing."""
    return exact_gradient(influence_balancing(15), jnp.asarray(0.5), 15, jax.random.key(0))


@cache
def last_of_15() -> Any:
    """Derivative of the loss of the last of 15 steps."""
    return sum_of_15() - exact_gradient(influence_balancing(15), jnp.asarray(0.5), 14, jax.random.key(0))


class TestFreshNoise:
    """Every episode has its own draw: sigma in the first, 2 sigma in the second, whose estimate is then fourfold."""

    NOISE = Design(SIGMA, np.asarray([[[SIGMA], [2 * SIGMA]]]))

    @pytest.mark.parametrize("window", [5, 10])
    def test_es_single(self, window: int) -> None:
        got = sum_over(es_single(self.NOISE, pairs=1, window=window), influence_balancing(15), 0.5, 30 // window)
        np.testing.assert_allclose(got, (1 + 4) * sum_of_15(), rtol=1e-9)

    def test_full_es(self) -> None:
        got = sum_over(estimators.full_es(self.NOISE, pairs=1, horizon=15), influence_balancing(15), 0.5, 2)
        np.testing.assert_allclose(got, (1 + 4) * sum_of_15(), rtol=1e-9)

    def test_truncated_es(self) -> None:
        """Its two windows have sigma and 2 sigma, each from the mean state: quadratic, so scaled alone."""
        one = sum_over(truncated_es(ONE, pairs=1, window=5), influence_balancing(10), 0.5, 1)
        both = sum_over(truncated_es(ONE, pairs=1, window=5), influence_balancing(10), 0.5, 2)
        got = sum_over(truncated_es(self.NOISE, pairs=1, window=5), influence_balancing(10), 0.5, 2)
        np.testing.assert_allclose(got, one + 4 * (both - one), rtol=1e-9)


class TestFinalLoss:
    """Telescoped differences: the sum over an episode is T times the loss of its last step."""

    @pytest.mark.parametrize(("interval", "blocks"), [(None, 1), (5, 3)])
    def test_it_is_exact_where_episodes_end_inside_windows(self, interval: int | None, blocks: int) -> None:
        design = orthogonal_design(SIGMA, blocks, 1)
        make = es_single if interval is None else partial(gpes, interval=interval)
        got = sum_over(
            make(design, pairs=blocks, window=10, objective=Objective.FINAL), influence_balancing(15), 0.5, 3
        )
        np.testing.assert_allclose(got, 2 * 15 * last_of_15(), rtol=1e-10)

    def test_backpropagation_and_full_es_agree(self) -> None:
        for estimator in (
            estimators.backprop(pairs=1, horizon=15, objective=Objective.FINAL),
            estimators.full_es(ONE, pairs=1, horizon=15, objective=Objective.FINAL),
        ):
            got = sum_over(estimator, influence_balancing(15), 0.5, 1)
            np.testing.assert_allclose(got, 15 * last_of_15(), rtol=1e-10)


class TestShaping:
    M = np.array([[0.5, 0.0], [-2.0, 1.0], [0.0, 0.0]])
    PRESENT = np.array([[True, False], [True, True], [True, False]])

    def test_values(self) -> None:
        got = {how: np.asarray(shape(how, jnp.asarray(self.M), jnp.asarray(self.PRESENT))) for how in Shaping}
        np.testing.assert_array_equal(got[Shaping.NONE], self.M)
        np.testing.assert_array_equal(got[Shaping.SIGN], [[1, 0], [-1, 1], [0, 0]])
        # |m| of the four: 0.5, 2, 1, 0, ranks 2, 4, 3, 1 of 4.
        np.testing.assert_allclose(got[Shaping.RANK], [[0.5, 0], [-1, 0.75], [0, 0]])
        np.testing.assert_allclose(got[Shaping.STANDARDISED], self.M / np.sqrt(5.25 / 4), rtol=1e-12)

    def test_no_difference_is_no_gradient(self) -> None:
        for how in Shaping:
            got = shape(how, jnp.zeros((2, 2)), jnp.ones((2, 2), bool))
            np.testing.assert_array_equal(got, 0.0)

    def test_sign_shapes_every_block_by_itself(self) -> None:
        """Two blocks of two steps in a window: losses theta, then -2 theta, xi = sigma, then 2 sigma. Signs +1 and -1
        give 2 sigma - 4 sigma; one sign for the window, which is that of its sum, would give -6 sigma."""
        problem = Toy(
            lambda theta, key: jnp.zeros((), jnp.int32),
            lambda theta, s, key: (s + 1, theta * jnp.where(s < 2, 1.0, -2.0)),
            4,
        )
        estimator = gpes(ONE, pairs=1, window=4, interval=2, shaping=Shaping.SIGN)
        got = sum_over(estimator, problem, 0.5, 1)
        np.testing.assert_allclose(got, -2 * SIGMA / (2 * SIGMA**2), rtol=1e-12)

    def test_scale_of_the_loss_drops_out(self) -> None:
        """The weights of two windows, and those for all differences a thousand times as large."""
        plain = pes(Waves(0.05), pairs=3, window=4)
        problem, theta = noisy_chaos(12), jnp.asarray(THETA2)
        window = jax.jit(lambda: plain.run(problem, theta, plain.init(problem, theta, jax.random.key(0))))()
        for how in (Shaping.SIGN, Shaping.RANK, Shaping.STANDARDISED):
            weights = replace(plain, shaping=how).weights
            small, large = weights(window), weights(window._replace(credit=1000.0 * window.credit))
            np.testing.assert_allclose(small, large, rtol=1e-9)
            assert np.any(small != 0)

    def test_running_keeps_the_proportions_of_windows(self) -> None:
        """Differences of 2 sigma, then 6 sigma a step: 1, then 6 / sqrt((0.98 * 4 + 36) / 1.98), in any unit."""
        for unit in (1.0, 1000.0):
            problem = Toy(
                lambda theta, key: jnp.zeros((), jnp.int32),
                lambda theta, s, key, unit=unit: (s + 1, unit * theta * jnp.where(s < 2, 1.0, 3.0)),
                4,
            )
            estimator = es_single(ONE, pairs=1, window=2, shaping=Shaping.RUNNING)
            first, both = (sum_over(estimator, problem, 0.5, n) for n in (1, 2))
            np.testing.assert_allclose(first, 2 * SIGMA / (2 * SIGMA**2), rtol=1e-6)  # two steps
            ratio = 6 / np.sqrt((0.98 * 4 + 36) / 1.98)
            np.testing.assert_allclose(both - first, 2 * ratio * SIGMA / (2 * SIGMA**2), rtol=1e-6)


class TestStart:
    def test_uniform_phases_are_uniform(self) -> None:
        estimator = estimators.es_single(Waves(0.05), pairs=400, window=20, phases=Phases.UNIFORM)
        _, state, _ = episode_sum(estimator, influence_balancing(20), jnp.asarray(0.5), jax.random.key(0), 1)
        counts = np.bincount(np.asarray(state.clock.t), minlength=21)[1:]
        assert counts.sum() == 400
        assert np.sum((counts - 20.0) ** 2 / 20.0) < 44  # chi-squared of 19 degrees, one in a thousand

    def test_a_period_of_estimates_is_exact(self) -> None:
        estimator = estimators.es_single(
            Design(SIGMA, np.full((4, 1, 1), SIGMA)), pairs=4, window=20, phases=Phases.UNIFORM
        )
        both, first = (sum_over(estimator, influence_balancing(20), 0.5, n) for n in (4, 1))
        np.testing.assert_allclose(both - first, 3 * 1261.3666851, rtol=1e-7)

    def test_burn_in_is_estimates_without_a_gradient(self) -> None:
        inner = estimators.pes(Waves(0.05), pairs=3, window=4)
        problem, theta, key = noisy_chaos((4, 9)), jnp.asarray(THETA2), jax.random.key(0)
        state = jax.jit(lambda: BurnIn(inner, 10, 4).init(problem, theta, key))()
        _, after, _ = episode_sum(inner, problem, theta, key, 3)  # 12 steps, the next multiple of 4
        np.testing.assert_array_equal(state.clock.t, after.clock.t)
        np.testing.assert_allclose(state.xi, after.xi, rtol=1e-12)
        np.testing.assert_allclose(state.particles, after.particles, rtol=1e-9)


def test_stored_noise_is_regenerated_noise() -> None:
    """U1h, with ends of episodes and redraws inside windows."""
    plain = estimators.Evolution(Dense(0.05), 3, 5, 3, phases=Phases.SPREAD)
    stored = replace(plain, draws=Draws.STORED)
    a, b = (sum_over(estimator, noisy_chaos((4, 9)), THETA2, 5) for estimator in (plain, stored))
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_pairs_may_be_spread_over_devices() -> None:
    """U12: 8 pairs on one device, and two by two on four; from a state amid episodes."""
    problem, theta = noisy_chaos((4, 9)), jnp.asarray(THETA2)
    estimator = replace(pes(Dense(0.05), pairs=8, window=5), phases=Phases.SPREAD)
    advance = jax.jit(lambda theta, state: estimator.estimate(problem, theta, state))
    state = estimator.init(problem, theta, jax.random.key(0))
    _, state, _ = advance(theta, state)
    want, _, _ = advance(theta, state)
    mesh = jax.make_mesh((4,), ("pair",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    spread = jax.device_put(state, NamedSharding(mesh, PartitionSpec("pair")))
    everywhere = jax.device_put(theta, NamedSharding(mesh, PartitionSpec()))
    got, after, _ = advance(everywhere, spread)
    assert len(after.particles.sharding.device_set) == 4
    np.testing.assert_allclose(got, want, rtol=1e-12)


class TestPrecision:
    def test_sums_are_float32_whatever_the_inner_dtype(self) -> None:
        """theta, state and loss in bfloat16; 0.1 sigma would be lost beside xi = 30 sigma in 8 bits."""
        problem = Toy(
            lambda theta, key: jnp.zeros((), jnp.bfloat16), lambda theta, s, key: (s, theta[0] * jnp.bfloat16(2.0)), 8
        )
        theta = jnp.zeros(2, jnp.bfloat16)
        estimator = pes(Dense(0.1), pairs=3, window=2)
        state = jax.eval_shape(partial(estimator.init, problem), theta, jax.random.key(0))
        window = jax.eval_shape(partial(estimator.run, problem), theta, state)
        assert window.xi.dtype == window.credit.dtype == window.seen.loss.dtype == jnp.float32
        assert jax.eval_shape(partial(estimator.estimate, problem), theta, state)[0].dtype == jnp.bfloat16

    def test_losses_that_are_lost_without_a_cap_credit_nothing(self) -> None:
        def step(theta: Any, s: Any, key: Any) -> Any:
            return s, jnp.where(theta[0] > 0.3, jnp.inf, theta[1])

        problem, theta = Toy(lambda theta, key: jnp.zeros(()), step, 5), jnp.asarray([0.5, 0.1])
        estimator = es_single(Dense(0.1), pairs=16, window=5)
        state, (gradient, _, metrics) = first_estimate(estimator, problem, theta, jax.random.key(0))
        eps = first_draws(Dense(0.1), state, theta)
        whole = (0.5 + eps[:, 0] <= 0.3) & (0.5 - eps[:, 0] <= 0.3)  # neither lost: no pair here
        np.testing.assert_allclose(gradient, np.mean(eps * (2 * eps[:, 1] * whole)[:, None], axis=0) / 0.02, atol=1e-12)
        assert 0.5 <= metrics["lost_fraction"] <= 1.0


def test_episodes_and_noise_have_keys_of_their_own() -> None:
    state = es_single(Dense(0.1), pairs=4, window=1).init(noisy_chaos(12), jnp.asarray(THETA2), jax.random.key(0))
    keys = jax.random.key_data(jnp.concatenate([state.data_keys, state.noise_keys]))
    assert len(np.unique(keys, axis=0)) == 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Shrinking:
    """w^2 / 2 to train on; (w - 1)^2 / 2 plus the updates made, to validate with."""

    start: jax.Array
    name: str = field(default="shrinking", metadata={"static": True})
    loss_cap: float = field(default=50.0, metadata={"static": True})

    def init(self, key: Any) -> Variables:
        return Variables({"w": self.start}, {"t": jnp.zeros(())})

    def batch(self, key: Any) -> Any:
        return ()

    def loss(self, params: Any, state: Any, batch: Any, key: Any) -> Any:
        return params["w"] ** 2 / 2, {"t": state["t"] + 1}

    def evaluate(self, params: Any, state: Any, split: str) -> Any:
        assert split == "valid"
        return (params["w"] - 1) ** 2 / 2 + state["t"]


class Rate:
    """Gradient descent; theta is the rate."""

    name = "rate"

    def init(self, key: Any) -> Any:
        return jnp.asarray(0.1)

    def transform(self, theta: Any, *, num_steps: Any = None) -> Any:
        return optax.GradientTransformationExtraArgs(
            lambda params: (), lambda g, state, params=None, **extra: (jax.tree.map(lambda x: -theta * x, g), state)
        )


def test_validation_losses_are_those_after_the_update() -> None:
    """w_t = (1 - theta)^t w_0: the objective is the sum over t = 1 ... 4 of (w_t - 1)^2 / 2 + t."""
    problem = Validated(TaskProblem(Shrinking(jnp.asarray(3.0)), Rate(), LogUniform(4, 4)))
    estimator, theta, key = estimators.backprop(pairs=1, horizon=4), jnp.asarray(0.2), jax.random.key(0)
    estimate = jax.jit(lambda problem: estimator.estimate(problem, theta, estimator.init(problem, theta, key)))
    gradient, _, metrics = estimate(problem)
    t = np.arange(1, 5)
    w = 0.8**t * 3.0
    np.testing.assert_allclose(gradient, np.mean((w - 1) * -t * 0.8 ** (t - 1) * 3.0), rtol=1e-12)
    np.testing.assert_allclose(metrics["meta_loss"], np.mean((w - 1) ** 2 / 2 + t), rtol=1e-12)


def test_relative_losses_are_logarithms_that_weigh_more_towards_the_end() -> None:
    """w_t = (1 - theta)^t w_0 before update t; the mean over t of (0.2 + 3.2 (t / 4)^3) log(l_t / C + 0.01)."""
    problem = Relative(TaskProblem(Shrinking(jnp.asarray(3.0), loss_cap=5.0), Rate(), LogUniform(4, 4)))
    estimator, theta, key = estimators.backprop(pairs=1, horizon=4), jnp.asarray(0.2), jax.random.key(0)
    estimate = jax.jit(lambda problem: estimator.estimate(problem, theta, estimator.init(problem, theta, key)))
    gradient, _, metrics = estimate(problem)
    t = np.arange(4)
    weight, loss = 0.2 + 3.2 * (t / 4) ** 3, (0.8**t * 3.0) ** 2 / 2
    slope = 0.8 ** (2 * t - 1) * -t * 3.0**2  # d l_t / d theta
    np.testing.assert_allclose(metrics["meta_loss"], np.mean(weight * np.log(loss / 5.0 + 0.01)), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.mean(weight * slope / 5.0 / (loss / 5.0 + 0.01)), rtol=1e-6)


def test_relative_losses_are_bounded_where_training_fails() -> None:
    """Steps of 5 times the distance: w grows fourfold a step, and the loss counts as ten caps at most."""
    problem = Relative(TaskProblem(Shrinking(jnp.asarray(3.0), loss_cap=5.0), Rate(), LogUniform(400, 400)))
    state, losses = problem.reset(jnp.asarray(5.0), jax.random.key(0)), []
    step = jax.jit(problem.step)
    for _ in range(400):  # the loss is infinite from step 250 or so, then NaN
        state, loss = step(jnp.asarray(5.0), state, jax.random.key(1))
        losses.append(float(loss))
    t = np.arange(400)
    np.testing.assert_allclose(losses[3:], ((0.2 + 3.2 * (t / 400) ** 3) * np.log(10 + 0.01))[3:], rtol=1e-5)
    assert max(losses) < problem.loss_cap


class TestDiagnostics:
    def test_losses_of_a_known_window(self) -> None:
        """Three steps of two pairs, cap 2; the last step of the second pair idles and counts nowhere."""
        loss = np.array([[[1.0, 0.5], [np.nan, 1.0]], [[3.0, 1.5], [np.inf, 2.5]], [[0.0, 1.0], [np.nan, 9.0]]])
        counted = jnp.asarray([[True, True], [True, True], [True, False]])
        zeros = jnp.zeros((3, 2), jnp.int32)
        begins = jnp.asarray([[True, True], [False, False], [True, False]])
        ticks = Tick(zeros, zeros, begins, begins, zeros, counted, zeros)
        seen = Seen(jnp.asarray(loss), jnp.zeros((3, 2)))
        problem = Toy(lambda theta, key: theta, lambda theta, s, key: (s, s), 1, loss_cap=2.0)
        got = diagnostics.losses(problem, ticks, seen)
        want = {
            "meta_loss": (1.5 + 3.0 + 3.5 + 4.0 + 1.0) / 10,
            "delta_abs_mean": (0.5 + 1.0 + 0.5 + 0.0 + 1.0) / 5,
            "delta_abs_max": 1.0,
            "lost_fraction": 2 / 10,
            "clipped_fraction": 2 / 10,
            "episodes_begun": 3,
        }
        assert {name: pytest.approx(float(value)) for name, value in got.items()} == want
        alone = diagnostics.losses(problem, ticks, Seen(jnp.asarray(loss[..., :1]), jnp.zeros((3, 2))))
        assert "delta_abs_mean" not in alone
        assert float(alone["lost_fraction"]) == pytest.approx(2 / 5)

    def test_signal_to_noise_of_known_gradients(self) -> None:
        """Three gradients (1, 0), (3, 0), (2, 3): mean (2, 1), squares 5; variance of the mean (1 + 3) / 3."""
        each = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])
        mean = {"w": jnp.asarray(each.mean(axis=0))}
        got = diagnostics.signal_to_noise(mean, jnp.asarray(np.sum(each**2, axis=1)))
        np.testing.assert_allclose(got["signal_to_noise"], 5.0 / (4.0 / 3.0), rtol=1e-12)
        assert diagnostics.signal_to_noise(mean, jnp.ones(1)) == {}

    @pytest.mark.parametrize("noise", [Dense(0.05), Dense(0.05, scales=(("b", 2.0),))])
    def test_squares_are_those_of_each_pair(self, noise: Any) -> None:
        theta = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
        draws = jax.random.normal(jax.random.key(0), (4, 2, 7), jnp.float64)
        weights = jax.random.normal(jax.random.key(1), (4, 2), jnp.float64)
        got = noise.squares(theta, weights, draws)
        want = []
        for w, d in zip(weights, draws, strict=True):
            one = noise.combine(theta, w, d)
            want.append(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(one)))
        np.testing.assert_allclose(got, want, rtol=1e-12)

    def test_an_estimate_reports_its_own_signal(self) -> None:
        """One-step loss <c, theta>: g_n = eps_n <c, eps_n> / sigma^2."""
        c = jnp.asarray([1.0, -2.0])
        problem = Toy(lambda theta, key: jnp.zeros(()), lambda theta, s, key: (s, jnp.sum(c * theta)), 1)
        estimator, theta = es_single(Dense(0.1), pairs=5, window=1), jnp.asarray(THETA2)
        state, (gradient, _, metrics) = first_estimate(estimator, problem, theta, jax.random.key(0))
        eps = first_draws(Dense(0.1), state, theta)
        each = eps * (eps @ np.asarray(c))[:, None] / 0.01
        np.testing.assert_allclose(gradient, each.mean(axis=0), rtol=1e-9)
        variance = np.sum(np.var(each, axis=0, ddof=1)) / 5
        np.testing.assert_allclose(metrics["signal_to_noise"], np.sum(each.mean(axis=0) ** 2) / variance, rtol=1e-8)

    def test_cosine_to_a_reference(self) -> None:
        """The reference sees the gradient 2000 c of a quadratic exactly: so does ES-Single with one weight."""
        inner = es_single(Dense(0.1), pairs=3, window=5)
        watched = Watched(inner, estimators.backprop(pairs=1, horizon=30))
        problem, theta = influence_balancing(30), jnp.asarray(0.5)
        state, (gradient, _, metrics) = first_estimate(watched, problem, theta, jax.random.key(0))
        episodes = jnp.concatenate([state.estimator.data_keys, state.reference.data_keys])
        assert len(np.unique(jax.random.key_data(episodes), axis=0)) == 4  # none is shared
        _, (alone, _, _) = first_estimate(inner, problem, theta, jax.random.key(0))
        np.testing.assert_allclose(gradient, alone, rtol=1e-12)
        np.testing.assert_allclose(metrics["reference_cosine"], 1.0, rtol=1e-9)
        frozen = Watched(inner, estimators.backprop(pairs=1, horizon=30), (("", 0.0),))
        _, (_, _, metrics) = first_estimate(frozen, problem, theta, jax.random.key(0))
        assert metrics["reference_cosine"] == 0.0
        a, b = {"w": jnp.asarray([3.0, 0.0])}, {"w": jnp.asarray([3.0, 4.0])}
        np.testing.assert_allclose(diagnostics.cosine(a, b), 0.6, rtol=1e-12)
        np.testing.assert_allclose(diagnostics.cosine(a, {"w": jnp.zeros(2)}), 0.0)
