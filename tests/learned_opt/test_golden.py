"""Numerical parity with the published optimizers, move by move."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import fused, network
from learned_opt.network import Layer
from learned_opt.rules import small_fc

GOLDEN = Path(__file__).parent.parent / "golden"


def load(name: str) -> dict[str, Any]:
    """The arrays of a golden file as nested dictionaries."""
    tree: dict[str, Any] = {}
    with np.load(GOLDEN / f"{name}.npz") as file:
        for key in file.files:
            *path, leaf = key.split("|")
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = file[key]
    return tree


def small_fc_theta(theta: dict[str, Any]) -> small_fc.Theta:
    nn = theta["nn"]["~"]
    layers = tuple(Layer(jnp.asarray(nn[f"w{i}"]), jnp.asarray(nn[f"b{i}"])) for i in range(3))
    decays = (jnp.asarray(theta[f"{kind}_decays"]) for kind in ("momentum", "rms", "adafactor"))
    return small_fc.Theta(*decays, layers)


@pytest.mark.parametrize("evaluate", [network.apply, fused.apply], ids=["reference", "fused"])
@pytest.mark.parametrize("variant", ["init", "perturbed"])
def test_small_fc_moves_as_published(variant: str, evaluate: Any) -> None:
    golden = load(f"adafac_mlp__{variant}")
    opt = learned_opt.SmallFC().transform(small_fc_theta(golden["theta"]), network=evaluate)
    params = start = jax.tree.map(jnp.asarray, golden["params_in"])
    state, update = opt.init(params), jax.jit(opt.update)
    error = largest = 0.0
    for t, loss in enumerate(golden["losses"]):
        grads = jax.tree.map(lambda g, t=t: jnp.asarray(g[t]), golden["grads"])
        updates, state = update(grads, state, params, value=loss)
        params = jax.tree.map(jnp.add, params, updates)
        move = jax.tree.map(lambda p, s: np.asarray(p) - np.asarray(s), params, start)
        want = jax.tree.map(lambda p, s, t=t: p[t] - np.asarray(s), golden["params"], start)
        error = max(error, *(np.max(np.abs(a - b)) for a, b in zip(*map(jax.tree.leaves, (move, want)), strict=True)))
        largest = max(largest, *(np.max(np.abs(x)) for x in jax.tree.leaves(want)))
    assert largest > 1e-4
    assert error <= 1e-4 * largest

    final, acc = golden["state_final"], state.accumulators
    factored = final["fac_rolling_features"]
    wanted = (final["mom_rolling"]["m"], final["rms_rolling"]["rms"], factored["v_row"], factored["v_col"])
    for ours, theirs in zip(acc, (*wanted, factored["v_diag"]), strict=True):
        for i in range(next(iter(jax.tree.leaves(theirs))).shape[-1]):
            # m and r are tuples of trees, the factored ones trees of stacked arrays.
            tree = ours[i] if isinstance(ours, tuple) else jax.tree.map(lambda a, i=i: a[i], ours)
            jax.tree.map(lambda a, b, i=i: assert_close(a, b[..., i]), tree, theirs)


def assert_close(ours: Any, theirs: np.ndarray) -> None:
    """1 - d is known to 6e-5 where d = 0.999 in float32; and sums of both signs cancel in some entries."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.max(np.abs(theirs), initial=0.0))
