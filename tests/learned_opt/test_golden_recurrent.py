"""Numerical parity of the rules with an LSTM beside Adam or a wide network, move by move."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import network
from learned_opt.fused import chunked
from learned_opt.network import Layer
from learned_opt.recurrent import LSTMState
from learned_opt.rules import nn_adam, rnn_mlp

GOLDEN = Path(__file__).parent.parent / "golden"


@contextmanager
def quick(value: bool) -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", value)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation() -> Iterator[None]:
    with quick(True):
        yield


@cache
def compiled(rule: Any, form: Any = network.apply) -> Any:
    """`update` with the weights as its first argument: one compilation for all weights of a rule."""
    return jax.jit(lambda theta, *args, **extra: rule.transform(theta, network=form).update(*args, **extra))


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


def layer(theta: dict[str, Any]) -> Layer:
    return Layer(jnp.asarray(theta["w"]), jnp.asarray(theta["b"]))


def lstm_state(theta: dict[str, Any]) -> LSTMState:
    return LSTMState(jnp.asarray(theta["hidden"]), jnp.asarray(theta["cell"]))


def nn_adam_theta(theta: dict[str, Any]) -> nn_adam.Theta:
    return nn_adam.Theta(
        nn_adam.Hyper(*(jnp.asarray(theta[f"per_layer_{name}"]) for name in ("lr", "beta1", "beta2", "epsilon"))),
        lstm_state(theta["lstm_init_state"]),
        layer(theta["rnn_params"]["rnn/linear"]),
        layer(theta["rnn_to_controls_params"]["rnn_to_controls"]),
    )


def rnn_mlp_theta(theta: dict[str, Any]) -> rnn_mlp.Theta:
    return rnn_mlp.Theta(
        jnp.asarray(theta["initial_from_lstm"]),
        jnp.asarray(theta["initial_from_mlp"]),
        lstm_state(theta["lstm_init_state"]),
        layer(theta["rnn_params"]["rnn/linear"]),
        layer(theta["rnn_to_in_params"]["rnn_to_in"]),
        layer(theta["rnn_to_ff_params"]["rnn_to_ff"]),
        tuple(layer(theta["ffmod_params"][f"mlp/~/linear_{i}"]) for i in range(3)),
    )


def check_moves(golden: dict[str, Any], rule: Any, theta: Any, form: Any = network.apply) -> Any:
    """Run all steps, compare the move after each with the published one, and return the final state."""
    params = start = jax.tree.map(jnp.asarray, golden["params_in"])
    state, update = jax.jit(rule.transform(theta).init)(params), compiled(rule, form)
    error = largest = 0.0
    for t, loss in enumerate(golden["losses"]):
        grads = jax.tree.map(lambda g, t=t: jnp.asarray(g[t]), golden["grads"])
        updates, state = update(theta, grads, state, params, value=loss)
        params = jax.tree.map(jnp.add, params, updates)
        move = jax.tree.map(lambda p, s: np.asarray(p) - np.asarray(s), params, start)
        want = jax.tree.map(lambda p, s, t=t: p[t] - np.asarray(s), golden["params"], start)
        error = max(error, *(np.max(np.abs(a - b)) for a, b in zip(*map(jax.tree.leaves, (move, want)), strict=True)))
        largest = max(largest, *(np.max(np.abs(x)) for x in jax.tree.leaves(want)))
    print(f"{error / largest:.1e} of the largest move {largest:.1e}")
    assert largest > 1e-4
    assert error <= 1e-4 * largest
    return state


def check_accumulators(ours: tuple[Any, ...], theirs: Any) -> None:
    """Ours are one tree per decay, theirs a tree of arrays with the decays on the last axis."""
    for i, tree in enumerate(ours):
        jax.tree.map(lambda a, b, i=i: assert_close(a, b.reshape(*a.shape, -1)[..., i]), tree, theirs)


def assert_close(ours: Any, theirs: Any) -> None:
    """1 - d is known to 6e-5 where d = 0.999 in float32; and sums of both signs cancel in some entries."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.max(np.abs(theirs), initial=0.0))


@pytest.mark.parametrize("variant", ["init", "perturbed"])
def test_nn_adam_moves_as_published(variant: str) -> None:
    golden = load(f"nn_adam__{variant}")
    state = check_moves(golden, nn_adam.NNAdam(), nn_adam_theta(golden["theta"]))
    final = golden["state_final"]
    check_accumulators(state.accumulators.m, final["rolling_features"]["m"])
    check_accumulators(state.accumulators.r, final["rolling_features"]["rms"])
    jax.tree.map(assert_close, state.lstm._asdict(), final["lstm_hidden_state"])
    for ours, name in zip(state.hyper, ("lr", "beta1", "beta2", "epsilon"), strict=True):
        np.testing.assert_allclose(ours, jax.tree.leaves(final[f"per_layer_{name}"]), rtol=1e-4)
    assert int(state.t) == final["iteration"]


RNN_MLP = {
    "rnn_mlp": (rnn_mlp.RNNMLP(), network.apply),
    "rnn_mlp_celo": (rnn_mlp.RNNMLP(loss_epsilon=1e-7), chunked.apply),
}
"""With the form of the network: `fused.apply` takes the plain one for tensors as small as these."""


@pytest.mark.parametrize("variant", ["init", "perturbed"])
@pytest.mark.parametrize("name", RNN_MLP)
def test_rnn_mlp_moves_as_published(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "ELEMENTS", 32)
    assert chunked.part_of((13, 6)) == 1 and chunked.part_of((3, 3, 2, 4)) == 1  # several parts
    golden = load(f"{name}__{variant}")
    rule, form = RNN_MLP[name]
    state = check_moves(golden, rule, rnn_mlp_theta(golden["theta"]), form)
    final = golden["state_final"]
    check_accumulators(state.accumulators.m, final["mom_rolling"]["m"])
    check_accumulators(state.accumulators.r, final["rms_rolling"]["rms"])
    jax.tree.map(assert_close, state.lstm._asdict(), final["lstm_hidden_state"])
    assert_close(state.from_lstm, final["from_lstm"])
    assert_close(state.from_mlp, np.stack(jax.tree.leaves(final["from_mlp"])))
    for ours, theirs in ((state.train, final["train_loss_accum"]), (state.valid, final["valid_loss_accum"])):
        for a, key in zip(ours, ("mean", "var", "updates"), strict=True):
            assert_close(a, theirs[key])
    assert_close(state.gradient_scale, final["dynamic_clip"]["value"])
    assert int(state.t) == final["iteration"] == final["dynamic_clip"]["iteration"] - 1


@cache
def perturbed(rule: Any) -> Any:
    wave = lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return jax.jit(lambda: jax.tree.map(wave, rule.init(jax.random.key(0))))()


SMALL = rnn_mlp.RNNMLP(units=4, hidden=4, hidden_layers=1)


@pytest.mark.parametrize("rule", [nn_adam.NNAdam(units=4), SMALL], ids=["nn_adam", "rnn_mlp"])
def test_odd_trees_and_bad_numbers_leave_no_trace_in_the_state(rule: Any) -> None:
    theta, update = perturbed(rule), compiled(rule)
    params = {"none": jnp.ones((0, 3)), "scalar": jnp.ones(()), "zeros": jnp.zeros((2, 1, 1, 2, 2))}
    state = jax.jit(rule.transform(theta).init)(params)
    for bad in (0.0, np.nan, np.inf, 1e30):
        grads = jax.tree.map(lambda p, bad=bad: jnp.full_like(p, bad), params)
        updates, state = update(theta, grads, state, params, value=bad, validation_value=bad)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((updates, state)))
    empty = rule.transform(theta).init({})
    assert update(theta, {}, empty, {}, value=1.0)[0] == {}


def test_first_update_of_rnn_mlp_is_right_under_every_optimization_of_xla() -> None:
    """The published one divides by zero here, once XLA has folded 1 - d^0 + 1e-8."""
    rule, params = SMALL, {"w": jnp.ones((3, 2))}
    theta, opt = perturbed(rule), rule.transform(perturbed(rule))
    state = jax.jit(opt.init)(params)
    with quick(False):
        got = jax.jit(opt.update)(params, state, params, value=1.0)
    want = compiled(rule)(theta, params, state, params, value=1.0)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), got, want)


def test_losses_of_rnn_mlp() -> None:
    rule, params = SMALL, {"w": jnp.ones((3, 2))}
    theta, opt = perturbed(rule), rule.transform(perturbed(rule))
    with pytest.raises(ValueError, match="value is None: rnn_mlp reads the training loss"):
        opt.update(params, opt.init(params), params)
    with_losses = lambda state, **losses: compiled(rule)(theta, params, state, params, **losses)[1]
    state = with_losses(opt.init(params), value=3.0)
    assert int(state.train.n) == 1 and int(state.valid.n) == 0
    state = with_losses(state, value=np.nan, validation_value=2.0)
    assert int(state.train.n) == 1 and int(state.valid.n) == 1
    np.testing.assert_allclose(state.train.mean, 0.1 * 3.0, rtol=1e-6)
    np.testing.assert_allclose(state.valid.mean, 0.05 * 2.0, rtol=1e-6)
    once, other = (with_losses(state, value=3.0, validation_value=x).lstm.hidden for x in (1.0, 9.0))
    assert bool(jnp.any(once != other))
