"""Floors, clips and bounds, which only bind where the golden vectors do not go; against closed forms."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rule_table import LOSS, RULES, weights

import learned_opt
from learned_opt import accumulators, features, loss_features, loss_statistics
from learned_opt.rules import nn_adam, velo

NONE = jnp.zeros((0,), jnp.float32)


def test_floors_of_factored_statistics_bind_for_tiny_gradients() -> None:
    g = np.float32(1e-6) * np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    d = jnp.asarray([0.9], jnp.float32)
    acc = accumulators.update(accumulators.init(jnp.zeros((2, 3)), m=0, r=0, factored=1), jnp.asarray(g), NONE, NONE, d)
    s = features.statistics(acc, jnp.asarray(g), jnp.zeros((2, 3)))
    row, col = 0.1 * (g**2).mean(1, dtype=np.float64), 0.1 * (g**2).mean(0, dtype=np.float64)
    row_factor, col_factor = s.factors[0]
    np.testing.assert_allclose(row_factor[0, :, 0], np.maximum(row / (row.mean() + 1e-9), 1e-9) ** -0.5, rtol=1e-4)
    np.testing.assert_allclose(col_factor[0, 0], np.maximum(col, 1e-9) ** -0.5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_squares_have_a_floor_of_1e_30_and_vectors_one_of_1e_9(shape: tuple[int, ...]) -> None:
    d, zero = jnp.asarray([0.9], jnp.float32), jnp.zeros(shape)
    acc = accumulators.update(accumulators.init(zero, m=0, r=0, factored=1), zero, NONE, NONE, d)
    for x in (acc.diag,) if len(shape) == 1 else (acc.row, acc.col):
        np.testing.assert_allclose(x, np.full(x.shape, 1e-31), rtol=1e-4)
    if len(shape) == 1:
        (block,) = features.factored_gradient(features.statistics(acc, jnp.full(shape, 1e-6), zero))
        np.testing.assert_allclose(block.value(*block.arrays), np.full((1, *shape), 1e-6 / np.sqrt(1e-9)), rtol=1e-4)


@pytest.mark.parametrize("name", ["velo", "celo", "celo2", "celo2_base", "celo_adam", "nn_adam"])
def test_gradients_are_clipped_to_1000(name: str, thetas: dict[Any, Any]) -> None:
    rule = RULES[name]
    opt, params = rule.transform(thetas[rule], num_steps=10), {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}
    large = {"w": jnp.asarray([[1e5, -3e4, 1.0], [2.0, 1e3, 5.0]]), "b": jnp.asarray([1e4, -2.0])}
    clipped = jax.tree.map(lambda g: jnp.clip(g, -1000.0, 1000.0), large)
    got, want = (opt.update(g, opt.init(params), params, value=LOSS) for g in (large, clipped))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("name", ["velo", "celo"])
def test_parameters_that_are_zero_move(name: str, thetas: dict[Any, Any]) -> None:
    rule, params = RULES[name], {"w": jnp.zeros((2, 3))}
    opt = rule.transform(thetas[rule], num_steps=10)
    updates, _ = opt.update(
        {"w": jnp.asarray([[1.0, -2.0, 3.0], [0.5, 0.1, -1.0]])}, opt.init(params), params, value=LOSS
    )
    assert bool(jnp.all(updates["w"] != 0))


def test_negative_losses_are_clipped_by_the_magnitude() -> None:
    h, a = loss_features.half_lives(100), loss_features.init()
    for x in (-1.0, 0.5):
        a = loss_features.update(a, jnp.float32(x), h)
    d = np.exp(-1 / np.asarray(h, np.float64))
    np.testing.assert_allclose(a.means, d * (1 - d) * -1.0 + (1 - d) * 0.5, rtol=1e-4)


def test_rank_is_the_number_of_axes_longer_than_one() -> None:
    params = [jnp.ones(()), jnp.ones((1, 1)), jnp.ones((3, 1)), jnp.ones((2, 2, 2, 2)), jnp.ones((2,) * 5)]
    acc = accumulators.init(params, m=3, r=1, factored=3)
    want = np.zeros((5, 5))
    want[0, 0] = want[1, 0] = want[2, 1] = want[3, 4] = 1.0  # five axes: all zeros
    np.testing.assert_array_equal(velo.tensor_inputs((jnp.zeros(9), jnp.zeros(9)), params, acc)[:, 19:24], want)


def test_hyper_parameters_of_nn_adam_stay_in_their_bounds() -> None:
    rule, params = nn_adam.NNAdam(units=2), {"w": jnp.ones((2, 2))}
    theta = rule.init(jax.random.key(0))
    for sign, bounds in ((1.0, nn_adam.HIGHEST), (-1.0, nn_adam.LOWEST)):
        opt = rule.transform(theta._replace(controls=theta.controls._replace(b=jnp.full((4,), sign * 1e4))))
        _, state = opt.update(params, opt.init(params), params)
        np.testing.assert_allclose(np.stack(state.hyper)[:, 0], bounds, rtol=1e-6)


def test_loss_statistics_bound_a_huge_loss_and_use_the_new_mean() -> None:
    s = loss_statistics.update(loss_statistics.init(), jnp.float32(2.0), 0.9)
    np.testing.assert_allclose([s.mean, s.var], [0.2, 0.1 * 1.8**2], rtol=1e-5)
    s = loss_statistics.update(s, jnp.float32(3e38), 0.9)
    np.testing.assert_allclose([s.mean, s.var], [1e14, 0.1 * 0.9e15**2], rtol=1e-4)


def test_bank_of_celo_is_a_mean_under_softmax() -> None:
    one, three = learned_opt.Celo(lstm_units=4, bank=1, phase=1), learned_opt.Celo(lstm_units=4, bank=3, phase=1)
    theta, params = weights(one), {"b": jnp.asarray([1.0, -2.0, 0.5])}
    copies = theta._replace(
        bank=jax.tree.map(lambda x: jnp.repeat(x, 3, 0), theta.bank), controls=weights(three).controls
    )
    third = theta._replace(bank=jax.tree.map(lambda x: x / 3, theta.bank))
    opts = three.transform(copies, num_steps=5), one.transform(third, num_steps=5)
    got, want = (opt.update(params, opt.init(params), params, value=LOSS)[0] for opt in opts)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), got, want)


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
def test_bfloat16_accumulators_decay_to_zero_without_gradients(decay: float) -> None:
    """An average that moves by less than a unit of its last place must not be rounded back to itself for ever."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=2000).astype(np.float32))
    acc = accumulators.init(x, m=1, r=0, factored=0, dtype=jnp.bfloat16)._replace(m=(x.astype(jnp.bfloat16),))
    n = round(3 / (1 - decay))
    step = lambda acc, _: (accumulators.update(acc, 0 * x, jnp.asarray([decay], jnp.float32), NONE, NONE), None)
    acc, _ = jax.lax.scan(step, acc, None, length=n)
    share = float(jnp.sum(acc.m[0].astype(jnp.float32) * x) / jnp.sum(x * x))
    assert abs(share - decay**n) < 0.02


def test_bfloat16_accumulators_of_equal_entries_keep_their_mean() -> None:
    """Entries that are equal are rounded apart: their mean follows the float32 average."""
    acc = accumulators.init(jnp.zeros(1000), m=1, r=0, factored=0, dtype=jnp.bfloat16)
    step = lambda acc, _: (accumulators.update(acc, jnp.ones(1000), jnp.asarray([0.99], jnp.float32), NONE, NONE), None)
    acc, _ = jax.lax.scan(step, acc, None, length=300)
    np.testing.assert_allclose(jnp.mean(acc.m[0].astype(jnp.float32)), 1 - 0.99**300, rtol=0.01)
