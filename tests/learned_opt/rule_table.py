"""The rules that the contract is tested on, in small settings; a new rule is one line in `RULES`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt

RULES = {
    "celo": learned_opt.Celo(lstm_units=8),
    "celo phase 1, bank of 3": learned_opt.Celo(lstm_units=8, bank=3, phase=1),
    "celo2": learned_opt.Celo2(),
    "celo2_base": learned_opt.Celo2Base(hidden=4),
    "celo_adam": learned_opt.CeloAdam(lstm_units=8),
    "helm": learned_opt.Helm(),
    "mlp": learned_opt.MLP(hidden=16),
    "nn_adam": learned_opt.NNAdam(),
    "rnn_mlp": learned_opt.RNNMLP(),
    "small_fc": learned_opt.SmallFC(),
    "velo": learned_opt.VeLO(lstm_units=8, bank=3, ff_mult=1.0),  # 100 times random weights would overflow
}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
READS_LOSS = {"velo", "celo", "celo_adam", "helm", "rnn_mlp"}
READS_STEPS = {"velo", "celo", "celo_adam", "helm"}


def weights(rule: Any) -> Any:
    """Weights as large as initial ones; biases too. NN-Adam's begin at hyper-parameters, so it keeps its own."""
    if rule.name == "nn_adam":
        return rule.init(jax.random.key(2))
    random = np.random.default_rng(0)

    def leaf(x: Any) -> Any:
        scale = 1 / np.sqrt(x.shape[-2]) if x.ndim > 1 else 0.05
        return jnp.asarray(random.normal(scale=scale, size=x.shape).astype(np.float32))

    return jax.tree.map(leaf, jax.eval_shape(rule.init, jax.random.key(0)))


def parameters(dtype: Any = jnp.float32) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 2)
    shapes = {"w": (6, 4), "bias": (5,)}
    tree = {name: jax.random.normal(key, shape, dtype) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}
    return {"layer": tree, "scale": jnp.asarray(1.5, dtype)}


def gradients(params: Any, seed: int = 1) -> Any:
    return optax.tree.random_like(jax.random.key(seed), params, sampler=jax.random.normal)


def is_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(x.astype(jnp.float32)))) for x in jax.tree.leaves(tree))


def moves(tree: Any) -> bool:
    return any(bool(jnp.any(x != 0)) for x in jax.tree.leaves(tree))


LOSS = jnp.float32(2.0)
