"""A task and a rule as a problem; the score; no randomness drawn twice."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from evaluate_toy import ScaledSGD, linear
from problems import Toy, Waves, hashed, noisy_chaos

from meta_train import estimators
from meta_train.estimators.clock import Since
from meta_train.estimators.evolution import Carry, Evolution, Phases
from meta_train.horizon import LogUniform
from meta_train.noise import Dense
from meta_train.problem import TaskProblem, bounded_loss, mean_loss, step_key
from tasks.task import Variables

THETA = {"rate": jnp.float32(0.1)}


class DecayedSGD(ScaledSGD):
    """`ScaledSGD` with the weights that a rule starts from."""

    def init(self, key: Any) -> Any:
        return THETA


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeyRecorder:
    """A task that writes down every key it is given, children included, in its state."""

    unused: jax.Array
    steps: int = field(metadata={"static": True})
    name: str = field(default="recorder", metadata={"static": True})
    loss_cap: float = field(default=1.0, metadata={"static": True})

    def init(self, key: Any) -> Variables:
        used = jnp.concatenate([jax.random.key_data(key)[None], jax.random.key_data(jax.random.split(key))])
        keys = jnp.zeros((3 + 6 * self.steps, 2), jnp.uint32).at[:3].set(used)
        return Variables({"w": jnp.ones(())}, {"keys": keys, "t": jnp.int32(0)})

    def batch(self, key: Any) -> Any:
        return jax.random.key_data(jnp.stack([key, *jax.random.split(key)]))

    def loss(self, params: Any, state: Any, batch: Any, key: Any) -> Any:
        rows = jnp.concatenate([batch, jax.random.key_data(jnp.stack([key, *jax.random.split(key)]))])
        keys = jax.lax.dynamic_update_slice(state["keys"], rows, (3 + 6 * state["t"], jnp.int32(0)))
        return params["w"] ** 2, {"keys": keys, "t": state["t"] + 1}

    def evaluate(self, params: Any, state: Any, split: str) -> Any:
        return params["w"] ** 2


def test_no_key_serves_twice_in_an_episode() -> None:
    """Initial weights, batches and dropout of all steps come from different keys. (fold_in(k, i) is split(k)[i].)"""
    steps = 5
    problem = TaskProblem(KeyRecorder(jnp.zeros(1), steps), DecayedSGD(), LogUniform(steps, steps))
    estimator = estimators.es_single(Dense(0.1), pairs=2, window=steps, phases=Phases.LOCKSTEP)
    state = estimator.init(problem, THETA, jax.random.key(0))
    _, state, _ = estimator.estimate(problem, THETA, state)
    seen = np.asarray(state.particles.model_state["keys"])
    np.testing.assert_array_equal(seen[:, 0], seen[:, 1])  # a pair shares all of them
    rows = seen[:, 0].reshape(-1, 2)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_task_problem_is_training_with_the_loss_before_the_update() -> None:
    task, horizon = linear(), 4
    problem = TaskProblem(task, DecayedSGD(), LogUniform(horizon, horizon))
    state = problem.reset(THETA, jax.random.key(1))
    assert int(state.num_steps) == horizon
    again = problem.reset(THETA, jax.random.key(2))
    assert not np.allclose(state.params["linear"]["w"], again.params["linear"]["w"])
    opt = DecayedSGD().transform(THETA, num_steps=horizon)
    params, opt_state, losses = state.params, opt.init(state.params), []
    for t in range(horizon):
        key = jax.random.fold_in(jax.random.key(9), t)
        batch = task.batch(jax.random.fold_in(key, 0))
        loss_and_grad = jax.value_and_grad(task.loss, has_aux=True)
        (want, _), grads = loss_and_grad(params, {}, batch, jax.random.fold_in(key, 1))
        updates, opt_state = opt.update(grads, opt_state, params, value=want)
        params = optax.apply_updates(params, updates)
        state, loss = problem.step(THETA, state, key)
        np.testing.assert_allclose(loss, want, rtol=1e-5)
        losses.append(float(loss))
    np.testing.assert_allclose(state.params["linear"]["w"], params["linear"]["w"], rtol=1e-5)
    assert len(set(losses)) == horizon  # batches differ


def test_loss_of_the_first_step_does_not_depend_on_theta() -> None:
    """U9: the loss before the update; one step an episode gives an estimate of exactly zero."""
    problem = TaskProblem(linear(), DecayedSGD(), LogUniform(1, 1))
    estimator = estimators.es_single(Dense(0.05), pairs=3, window=2)
    gradient, _, _ = estimator.estimate(problem, THETA, estimator.init(problem, THETA, jax.random.key(0)))
    assert float(gradient["rate"]) == 0.0


def test_mean_loss_is_the_mean_over_the_steps_of_each_episode() -> None:
    problem, theta = noisy_chaos((3, 9), loss_cap=4.0), jnp.asarray([0.3, 0.4])
    keys = jax.random.split(jax.random.key(3), 6)
    want, horizons = [], []
    for key in keys:
        state, total, horizon = problem.reset(theta, key), 0.0, int(problem.horizon(key))
        for t in range(horizon):
            state, loss = problem.step(theta, state, step_key(key, jnp.int32(t)))
            total += min(float(loss), 4.0)
        want.append(total / horizon)
        horizons.append(horizon)
    assert len(set(horizons)) > 1
    np.testing.assert_allclose(mean_loss(problem, theta, keys), want, rtol=1e-5)


def test_finite_losses_above_the_cap_enter_the_gradient_as_the_cap() -> None:
    """Loss theta^2, cap between the two signs: D = cap - L(minus)."""
    problem = Toy(lambda theta, key: jnp.zeros(()), lambda theta, s, key: (s, jnp.sum(theta**2)), 1, loss_cap=1.05)
    theta = jnp.ones(1)
    estimator = estimators.full_es(Dense(0.1), pairs=8, horizon=1)
    state = estimator.init(problem, theta, jax.random.key(0))
    gradient, _, metrics = estimator.estimate(problem, theta, state)
    draw = lambda i: Dense(0.1).draw(state.noise_keys[i], jnp.int32(i), jnp.int32(1), theta)
    eps = np.stack([np.asarray(draw(i)) for i in range(8)])
    loss = lambda t: np.minimum(t[:, 0] ** 2, 1.05)
    want = np.mean(eps[:, 0] * (loss(1 + eps) - loss(1 - eps))) / (2 * 0.1**2)
    unclipped = np.mean(eps[:, 0] * ((1 + eps[:, 0]) ** 2 - (1 - eps[:, 0]) ** 2)) / (2 * 0.1**2)
    assert abs(want - unclipped) > 0.05
    np.testing.assert_allclose(gradient[0], want, rtol=1e-4)
    assert metrics["clipped_fraction"] > 0


def test_infinities_and_nan_count_as_the_cap() -> None:
    problem = Toy(lambda theta, key: theta, lambda theta, s, key: (s, s), 1, loss_cap=2.0)
    got = bounded_loss(problem, jnp.asarray([1.0, 3.0, jnp.inf, -jnp.inf, jnp.nan]))
    np.testing.assert_array_equal(got, [1.0, 2.0, 2.0, 2.0, 2.0])


# The phases over a mesh are those of SPREAD, among the pairs of all its places.
@pytest.mark.parametrize("phases", [x for x in Phases if x is not Phases.SPREAD_OVER_MESH])
@pytest.mark.parametrize(
    ("window", "interval", "horizons", "carry"),
    [
        (7, 1, (1, 1), Carry.PARTICLES), (7, 2, (1, 3), Carry.PARTICLES), (9, None, (1, 2), Carry.PARTICLES),
        (5, None, (3, 3), Carry.PARTICLES), (3, 4, (5, 5), Carry.PARTICLES), (5, 2, (4, 4), Carry.PARTICLES),
        (6, 4, (5, 5), Carry.MEAN), (6, 6, (2, 2), Carry.MEAN), (9, None, (2, 9), Carry.NONE),
    ],
)  # fmt: skip
def test_no_window_outgrows_the_table(
    window: int, interval: int | None, horizons: Any, carry: Any, phases: Any
) -> None:
    """An index beyond the table would be clamped without a word."""
    problem = noisy_chaos(horizons)
    estimator = Evolution(Waves(0.05), 3, window, interval, carry, phases)
    state = estimator.init(problem, jnp.zeros(2), jax.random.key(0))
    for since in Since if interval is not None else (Since.EPISODE,):
        table = replace(estimator.timetable, since=since)
        slots, clock = table.slots(problem), state.clock
        for _ in range(8):
            keys = table.episode_keys(problem, clock, state.data_keys)
            after, ticks = table.ticks(problem, clock, keys, state.data_keys)
            assert int(ticks.slot.max()) < slots
            assert int((ticks.episode - clock.episode[None]).max()) < slots
            clock = after


def test_episodes_differ_from_one_another_and_between_pairs() -> None:
    """A loss that is the episode's own number: no two of 3 pairs x 4 episodes share it, nor a draw of Dense."""
    problem = Toy(lambda theta, key: hashed(key, theta.dtype), lambda theta, s, key: (s, s), 2)
    estimator = estimators.pes(Dense(0.1), pairs=3, window=2, phases=Phases.LOCKSTEP)
    theta, episodes, draws = jnp.zeros(4), [], []
    state = estimator.init(problem, theta, jax.random.key(0))
    for _ in range(4):
        _, state, _ = estimator.estimate(problem, theta, state)
        episodes.extend(np.asarray(state.particles[:, 0]))
        draws.extend(np.asarray(state.xi[:, 0]))
    assert len(set(map(float, episodes))) == len(set(map(float, draws))) == 12
    keys = np.concatenate([jax.random.key_data(k) for k in (state.data_keys, state.noise_keys)])
    assert len(np.unique(keys, axis=0)) == 6


def test_dense_noise_has_deviation_sigma_and_a_draw_of_its_own_for_every_block_and_key() -> None:
    theta, noise = {"a": jnp.zeros((40, 50)), "b": jnp.ones(3)}, Dense(0.05)
    keys = jax.random.split(jax.random.key(0), 2)
    draw = lambda key, block: np.asarray(noise.draw(key, jnp.int32(0), jnp.int32(block), theta))
    draws = np.stack([draw(keys[0], 1), draw(keys[0], 2), draw(keys[1], 1)])
    assert draws.shape == (3, 2003)
    np.testing.assert_allclose(np.std(draws, axis=1), 0.05, rtol=0.08)  # 5 standard errors
    assert np.max(np.abs(np.corrcoef(draws) - np.eye(3))) < 5 / np.sqrt(2003)
    np.testing.assert_array_equal(draw(keys[0], 1), draws[0])
    minus = noise.perturb(theta, jnp.asarray(draws[0]), jnp.float32(-1.0))
    np.testing.assert_allclose(minus["b"], 1.0 - draws[0][2000:], rtol=1e-6)
