"""The fused network against the reference, on tensors above `TINY`; and the clipping of decays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import accumulators, fused, network

SHAPES = [(200,), (20, 30), (1, 200), (200, 1), (16, 16), (3, 3, 4, 8), (2, 3, 4, 2, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(shape: tuple[int, ...]) -> None:
    assert np.prod(shape) > fused.TINY
    rule = learned_opt.SmallFC()
    theta = rule.init(jax.random.key(0))
    # Biases count too, and decays that differ.
    theta = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), theta)
    params = jax.random.normal(jax.random.key(1), shape)
    scale = jnp.exp(jnp.linspace(-3.0, 3.0, shape[0])).reshape(-1, *(1,) * (len(shape) - 1))  # rows unlike columns
    found: list[Any] = []
    for evaluate in (network.apply, fused.apply):
        opt = rule.transform(theta, network=evaluate)
        state, update = opt.init(params), jax.jit(opt.update)
        for i in range(3):
            grads = scale * jax.random.normal(jax.random.key(2 + i), shape)
            updates, state = update(grads, state, params)
        found.append(np.asarray(updates))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5 * np.abs(found[0]).max())


def test_decays_of_squares_are_clipped_and_those_of_momenta_are_not() -> None:
    acc = accumulators.init(jnp.zeros((3,)), m=1, r=1, factored=1)
    acc = jax.tree.map(lambda x: x + 1.0, acc)
    one = lambda d: jnp.full((1,), d, jnp.float32)
    new = accumulators.update(acc, 2.0 * jnp.ones((3,)), one(1.5), one(-0.5), one(1.5))
    np.testing.assert_allclose(new.m[0], 1.5 * 1.0 - 0.5 * 2.0)
    np.testing.assert_allclose(new.r[0], 4.0)  # decay 0
    np.testing.assert_allclose(new.diag[0], 1.0)  # decay 1
    acc = jax.tree.map(lambda x: x + 1.0, accumulators.init(jnp.zeros((2, 3)), m=1, r=1, factored=1))
    new = accumulators.update(acc, 2.0 * jnp.ones((2, 3)), one(0.9), one(1.5), one(-0.5))
    np.testing.assert_allclose(new.r[0], 1.0)
    np.testing.assert_allclose(new.row[0], 4.0)
    np.testing.assert_allclose(new.col[0], 4.0)
