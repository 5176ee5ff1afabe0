"""Parts that rules share, against closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rule_table import LOSS, RULES, each_rule

import learned_opt
from learned_opt import accumulators, features, loss_features, loss_slopes, mup, recurrent
from learned_opt.errors import InputError
from learned_opt.network import Layer
from learned_opt.recurrent import LSTMState
from learned_opt.rules import celo2


def test_stochastic_rounding_is_unbiased_and_exact_where_it_can_be() -> None:
    x = jnp.asarray(np.random.default_rng(0).uniform(1.0, 2.0, 200_000).astype(np.float32))
    for sign in (1.0, -1.0):
        rounded = accumulators.stochastic_round(sign * x, jnp.uint32(0)).astype(jnp.float32)
        error = np.asarray(rounded - sign * x, np.float64)
        unit = 2.0**-7  # of bfloat16 between 1 and 2
        assert np.abs(error).max() < unit
        assert abs(error.mean()) < 5 * unit / np.sqrt(6 * error.size)  # variance of the error: unit^2 / 6
    exact = jnp.asarray([0.0, -1.5, 2.0**100, np.inf, -np.inf, np.nan], jnp.float32)
    np.testing.assert_array_equal(accumulators.stochastic_round(exact, jnp.uint32(1)).astype(jnp.float32), exact)


def test_bfloat16_accumulators_follow_a_slow_average() -> None:
    """Rounded to the nearest, an average of decay 0.999 would stop far below 1: at half a unit of its last place."""
    acc = accumulators.init(jnp.zeros((4000,)), m=1, r=0, factored=0, dtype=jnp.bfloat16)
    none = jnp.zeros((0,), jnp.float32)
    noise = np.random.default_rng(0)

    @jax.jit
    def step(acc: Any, g: Any) -> Any:
        return accumulators.update(acc, g, jnp.asarray([0.999], jnp.float32), none, none)

    for _ in range(3000):
        acc = step(acc, jnp.asarray(1.0 + 0.1 * noise.standard_normal(4000).astype(np.float32)))
    found = float(jnp.mean(acc.m[0].astype(jnp.float32)))
    assert abs(found - (1 - 0.999**3000)) < 0.01


def test_loss_averages_of_a_constant_loss_and_of_a_spike() -> None:
    """A constant loss: every corrected average is the loss. A spike counts as twice the largest average."""
    h = loss_features.half_lives(1000)
    np.testing.assert_allclose(h, np.logspace(1, 3, 10), rtol=1e-5)
    averages = loss_features.init()
    for _ in range(50):
        averages = loss_features.update(averages, jnp.float32(2.5), h)
    d = np.exp(-1 / np.logspace(1, 3, 10))
    # Published: a mean of k terms is corrected as one of k + 1 before the clipping, which therefore never binds here.
    np.testing.assert_allclose(averages.means / (1 - d**50), 2.5, rtol=1e-4)
    spiked = loss_features.update(averages, jnp.float32(1e6), h)
    largest = np.max(np.asarray(averages.means) / (1 - d**51))
    np.testing.assert_allclose(spiked.means, d * averages.means + (1 - d) * 2 * largest, rtol=1e-4)
    assert int(spiked.k) == 51
    np.testing.assert_array_equal(loss_features.features(loss_features.init(), h), np.zeros(9))


def test_loss_features_tell_a_falling_loss() -> None:
    h, averages = loss_features.half_lives(100), loss_features.init()
    for i in range(40):
        averages = loss_features.update(averages, jnp.float32(2.0 * 0.95**i), h)
        if i < 2:
            np.testing.assert_array_equal(loss_features.features(averages, h), np.zeros(9))
    f = np.asarray(loss_features.features(averages, h))
    assert np.all(f < 0)  # the quicker average is below the slower one


# Logarithms near -14 are rounded by 5e-7 in each of 120 updates.
@pytest.mark.parametrize(("unit", "atol"), [(1.0, 2e-5), (1e-6, 3e-5), (1e6, 2e-5)])
def test_loss_slopes_are_differences_of_weighted_means_of_logarithms(unit: float, atol: float) -> None:
    h, averages = loss_slopes.half_lives(300), loss_slopes.init()
    losses = unit * np.exp(-0.02 * np.arange(120) + 0.3 * np.random.default_rng(0).standard_normal(120))
    for loss in [*losses, np.nan, 0.0]:
        averages = loss_slopes.update(averages, jnp.float32(loss), h)
    weights = np.exp(-np.arange(119, -1, -1)[None] / np.asarray(h, np.float64)[:, None])
    means = weights @ np.log(losses) / weights.sum(1)
    expected = means[:-1] - means[1:]
    assert expected.max() < -0.03 and expected.min() > -1
    np.testing.assert_allclose(loss_slopes.features(averages, h), expected, atol=atol)


@pytest.mark.parametrize("spike", [1e-20, 1e30])
def test_a_loss_that_jumps_counts_as_two_nats(spike: float) -> None:
    h, averages = loss_slopes.half_lives(1000), loss_slopes.init()
    for _ in range(50):
        averages = loss_slopes.update(averages, jnp.float32(3.0), h)
    np.testing.assert_allclose(loss_slopes.features(averages, h), np.zeros(9), atol=1e-5)
    averages = loss_slopes.update(averages, jnp.float32(spike), h)
    d = np.exp(-1.0 / np.asarray(h, np.float64))
    moved = np.sign(spike - 3.0) * 2.0 * (1.0 - d) / (1.0 - d**51)
    np.testing.assert_allclose(loss_slopes.features(averages, h), moved[:-1] - moved[1:], atol=1e-5)


def test_fraction_left_saturates() -> None:
    at = lambda t: np.asarray(features.fraction_left(jnp.int32(t), 100))
    np.testing.assert_allclose(at(40), np.tanh(10 * (0.4 - np.array(features.FRACTIONS))), rtol=1e-5)
    np.testing.assert_allclose(at(1000), np.ones(9), atol=1e-6)


def test_lstm_against_its_equations_in_float64() -> None:
    random = np.random.default_rng(0)
    w, b = random.normal(size=(5 + 3, 12)), random.normal(size=12)
    x, h, c = random.normal(size=(2, 5)), random.normal(size=(2, 3)), random.normal(size=(2, 3))
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    i, g, f, o = np.split(np.concatenate([x, h], 1) @ w + b, 4, axis=1)
    cell = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    float32 = lambda *arrays: tuple(jnp.asarray(a, jnp.float32) for a in arrays)
    new = recurrent.lstm(Layer(*float32(w, b)), *float32(x), LSTMState(*float32(h, c)))
    np.testing.assert_allclose(new.cell, cell, rtol=1e-5)
    np.testing.assert_allclose(new.hidden, sigmoid(o) * np.tanh(cell), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (3, 5, 5)], ids=str)
def test_orthogonalise_keeps_singular_vectors_and_evens_singular_values(shape: tuple[int, ...]) -> None:
    x = jax.random.normal(jax.random.key(0), shape)
    u, s, vt = np.linalg.svd(np.asarray(celo2.orthogonalise(x), np.float64), full_matrices=False)
    assert np.all((s > 0.6) & (s < 1.3))
    u0, _, vt0 = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    # U V^T does not depend on the order of singular values, which the iteration may change.
    assert np.abs(u @ vt - u0 @ vt0).max() < 0.35
    assert np.sum((u @ vt) * (u0 @ vt0)) > 0.95 * np.sum((u0 @ vt0) ** 2)


@pytest.mark.parametrize("hidden_layers", [0, 1, 2])
def test_expert_is_adam_with_nesterovs_momentum_of_one_size(hidden_layers: int) -> None:
    """Updates of Celo2-base from the expert's weights, for a matrix and a vector, against the formula; any keys."""
    rule = learned_opt.Celo2Base(hidden=3, hidden_layers=hidden_layers, step_mult=1.0)
    opt = rule.transform(rule.expert(jax.random.key(8)))
    params = {"w": jnp.ones((5, 4)), "b": jnp.ones((7,))}
    state, m, r = opt.init(params), {"w": 0.0, "b": 0.0}, {"w": 0.0, "b": 0.0}
    for t in range(3):
        keys = jax.random.split(jax.random.key(t), 2)
        gradient = {n: jax.random.normal(k, params[n].shape) for n, k in zip(params, keys, strict=True)}
        steps, state = opt.update(gradient, state, params)
        for name, g in gradient.items():
            m[name], r[name] = 0.9 * m[name] + 0.1 * g, 0.95 * r[name] + 0.05 * g**2
            unit = lambda x: x / np.sqrt(np.mean(x**2))
            direction = unit(m[name] / np.sqrt(r[name])) + 0.3 * unit(g / np.sqrt(r[name]))
            np.testing.assert_allclose(steps[name], -unit(direction), rtol=1e-3, atol=1e-3)


def test_expert_needs_two_units() -> None:
    with pytest.raises(InputError, match=r"setting hidden is 1: .* expected at least 2"):
        learned_opt.Celo2(hidden=1).expert(jax.random.key(0))


def test_chain_is_decoupled_weight_decay_under_a_schedule_and_a_mask() -> None:
    params = {"w": jnp.full((2, 2), 3.0), "b": jnp.full((2,), 3.0)}
    opt = learned_opt.chain(
        optax.sgd(1.0),
        learning_rate=optax.piecewise_constant_schedule(0.5, {1: 0.1}),
        weight_decay=0.01,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        clip_norm=2.0,
    )
    state, grads = opt.init(params), jax.tree.map(lambda p: jnp.full_like(p, 4.0), params)
    clipped = 4.0 * 2.0 / np.sqrt(6 * 16)
    for rate in (0.5, 0.05):
        updates, state = opt.update(grads, state, params, value=LOSS)
        np.testing.assert_allclose(updates["w"], -rate * (clipped + 0.01 * 3.0), rtol=1e-6)
        np.testing.assert_allclose(updates["b"], -rate * clipped, rtol=1e-6)
    plain = learned_opt.chain(optax.sgd(0.1)).update(grads, learned_opt.chain(optax.sgd(0.1)).init(params), params)[0]
    np.testing.assert_allclose(plain["b"], -0.4, rtol=1e-6)


def test_clipping_counts_a_bad_entry_as_zero() -> None:
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    opt = learned_opt.chain(optax.sgd(1.0), clip_norm=1.0)
    grads = {"a": jnp.asarray([jnp.nan, 3.0]), "b": jnp.asarray([4.0, 0.0])}
    updates, _ = opt.update(grads, opt.init(params), params)
    np.testing.assert_allclose(updates["a"], [0.0, -0.6], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-0.8, 0.0], rtol=1e-6)


def test_settings_of_chain_can_be_injected_under_jit() -> None:
    make = optax.inject_hyperparams(learned_opt.chain, static_args=("optimizer", "mask"))
    opt = make(optax.sgd(1.0), learning_rate=0.5, weight_decay=0.1, clip_norm=1.0)
    params, grads = {"a": jnp.zeros(2)}, {"a": jnp.asarray([3.0, 4.0])}
    updates, _ = jax.jit(opt.update)(grads, opt.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.3, -0.4], rtol=1e-6)


@pytest.mark.parametrize("bad", [{"weight_decay": -0.1}, {"weight_decay": float("nan")}, {"clip_norm": 0.0}], ids=str)
def test_chain_refuses_what_makes_no_sense(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        learned_opt.chain(optax.sgd(0.1), **bad)


@pytest.mark.parametrize("name", ["small_fc", "velo"])
def test_width_multipliers_scale_the_steps(name: str, thetas: dict[Any, Any]) -> None:
    rule = RULES[name]
    params = {"in": jnp.ones((3, 8)), "hidden": 2.0 * jnp.ones((8, 8)), "b": jnp.ones((8,))}
    multipliers = mup.width_multipliers(params, lambda name, p: name == "hidden", hidden_multiplier=2.0)
    assert multipliers == {"in": 1.0, "hidden": 0.25, "b": 1.0}
    steps = []
    for extra in ({}, {"multipliers": multipliers}):
        opt = rule.transform(thetas[rule], num_steps=5, **extra)
        steps.append(opt.update(params, opt.init(params), params, value=LOSS)[0])
    # VeLO's steps are in units of the RMS of the parameters, which the multipliers replace.
    before = {"in": 1.0, "hidden": 2.0 if name == "velo" else 1.0, "b": 1.0}
    for leaf, multiplier in multipliers.items():
        np.testing.assert_allclose(steps[1][leaf] / steps[0][leaf], multiplier / before[leaf], rtol=1e-4)


FREE = {"mlp", "rnn_mlp"}
"""Wide networks, evaluated in parts: the bound is for large tensors only (benchmarks/optimizer_step.py)."""


@each_rule
def test_no_features_are_stored(rule: Any, thetas: dict[Any, Any]) -> None:
    """At most 16 temporary bytes per parameter, where the features alone would be 100 to 200."""
    if rule.name in FREE:
        pytest.skip("its parts are larger than this tensor")
    params = {"w": jnp.zeros((700, 300))}
    opt = rule.transform(thetas[rule], num_steps=10)
    state = jax.eval_shape(opt.init, params)

    def step(p: Any, s: Any, g: Any) -> Any:
        updates, s = opt.update(g, s, p, value=LOSS)
        return optax.apply_updates(p, updates), s

    compiled = jax.jit(step, donate_argnums=(0, 1), compiler_options={}).lower(params, state, params).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes / params["w"].size
    # Celo2: Newton-Schulz on whole matrices. Helm misses the bound: its reductions share stored arrays.
    assert temporary < {"celo2": 40, "helm": 73}.get(rule.name, 17)


@each_rule
def test_bytes_of_state(rule: Any, thetas: dict[Any, Any]) -> None:
    """Accumulators per parameter, and little else."""
    floats = {"celo_adam": 2, "nn_adam": 2, "mlp": 6, "rnn_mlp": 10}.get(rule.name, 4)
    params = {"w": jnp.zeros((700, 300))}
    for dtype, width in ((jnp.float32, 4), (jnp.bfloat16, 2)):
        opt = rule.transform(thetas[rule], num_steps=10, accumulator_dtype=dtype)
        state = jax.eval_shape(opt.init, params)
        found = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / params["w"].size
        assert width * floats <= found < width * floats + 0.2
