"""Numerical parity with the published optimizers, move by move."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import network
from learned_opt.fused import chunked, unrolled
from learned_opt.network import Layer
from learned_opt.recurrent import LSTMState
from learned_opt.rules import celo, celo2_base, celo_adam, mlp, small_fc, velo
from learned_opt.scheduler import Scheduler

GOLDEN = Path(__file__).parent.parent / "golden"
SHARED = Path(__file__).parents[3] / "shared" / "golden"


def load(name: str) -> dict[str, Any]:
    """The arrays of a golden file as nested dictionaries."""
    path = GOLDEN / f"{name}.npz"
    if not path.exists():
        path = SHARED / path.name
    if not path.exists():
        pytest.skip(f"{path.name} holds weights of others, which are not shipped")
    tree: dict[str, Any] = {}
    with np.load(path) as file:
        for key in file.files:
            *above, leaf = key.split("|")
            node = tree
            for part in above:
                node = node.setdefault(part, {})
            node[leaf] = file[key]
    return tree


def numbered(weights: dict[str, Any], count: int = 3) -> tuple[Layer, ...]:
    """Layers w0, b0, … ; a first layer in parts w0__0, w0__1, … is put together along its inputs."""
    parts = sorted((k for k in weights if k.startswith("w0__")), key=lambda k: int(k[4:]))
    first = np.concatenate([weights[k] for k in parts], axis=-2) if parts else weights["w0"]
    w = [first, *(weights[f"w{i}"] for i in range(1, count))]
    return tuple(Layer(jnp.asarray(x), jnp.asarray(weights[f"b{i}"])) for i, x in enumerate(w))


def layer(weights: dict[str, Any]) -> Layer:
    return Layer(jnp.asarray(weights["w"]), jnp.asarray(weights["b"]))


def small_fc_theta(theta: dict[str, Any]) -> small_fc.Theta:
    decays = (jnp.asarray(theta[f"{kind}_decays"]) for kind in ("momentum", "rms", "adafactor"))
    return small_fc.Theta(*decays, numbered(theta["nn"]["~"]))


def mlp_theta(theta: dict[str, Any]) -> mlp.Theta:
    return mlp.Theta(tuple(layer(theta[f"mlp/~/linear_{i}"]) for i in range(3)))


def scheduler_theta(theta: dict[str, Any]) -> Scheduler:
    rnn = theta["rnn_params"]
    start = theta["lstm_init_state"]
    initial = LSTMState(jnp.asarray(start["hidden"]), jnp.asarray(start["cell"]))
    return Scheduler(initial, *(layer(rnn[name]) for name in ("linear_1", "linear_2", "rnn/linear", "step_size")))


def velo_theta(theta: dict[str, Any]) -> velo.Theta:
    bank = numbered(theta["ff_mod_stack"]["~"])
    return velo.Theta(scheduler_theta(theta), layer(theta["rnn_params"]["rnn_to_controls"]), bank)


def celo_theta(theta: dict[str, Any]) -> celo.Theta:
    return celo.Theta(*velo_theta(theta))


def celo_adam_theta(theta: dict[str, Any]) -> celo_adam.Theta:
    return celo_adam.Theta(scheduler_theta(theta))


def celo2_theta(theta: dict[str, Any]) -> celo2_base.Theta:
    return celo2_base.Theta(numbered(theta["ff_mod_stack"]["~"]))


def biases(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "b", params)


class Case(NamedTuple):
    rule: Any
    theta: Callable[[dict[str, Any]], Any]
    narrow: bool = True
    """Whether the fused form is the unrolled one."""
    options: Mapping[str, Any] = MappingProxyType({})
    tolerance: float = 1e-4


CASES = {
    "adafac_mlp": Case(learned_opt.SmallFC(), small_fc_theta),
    "mlp": Case(learned_opt.MLP(), mlp_theta, narrow=False),
    "hyperv2_default": Case(learned_opt.VeLO(lstm_units=128, bank=64), velo_theta),
    "velo_s": Case(learned_opt.VeLO(lstm_units=64, bank=32, ff_mult=1.0), velo_theta),
    "celo": Case(learned_opt.Celo(), celo_theta),
    "celo_phase1": Case(learned_opt.Celo(phase=1), celo_theta),
    "celo_adam": Case(learned_opt.CeloAdam(), celo_adam_theta),
    "celo2": Case(learned_opt.Celo2(), celo2_theta, options={"adam_mask": biases}, tolerance=1e-3),
    "celo2base": Case(learned_opt.Celo2Base(), celo2_theta),
}
VARIANTS = [(name, variant) for name in CASES for variant in ("init", "perturbed")]
PRETRAINED = [("celo", "pretrained"), ("celo_adam", "pretrained")]


@pytest.mark.parametrize(("name", "variant"), [*VARIANTS, *PRETRAINED])
def test_moves_as_published(name: str, variant: str) -> None:
    """Random weights go through the plain network, others through the fused one, which these tensors are small for."""
    case, golden = CASES[name], load(f"{name}__{variant}")
    form = network.apply if variant == "init" else unrolled.apply if case.narrow else chunked.apply
    theta = case.theta(golden["theta"])
    opt = case.rule.transform(theta, num_steps=int(golden["num_steps"]), network=form, **case.options)
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
    print(f"{name} {variant}: {error / largest:.1e} of the largest move {largest:.1e}")
    if (name, variant) != ("velo_s", "init"):  # its moves are rounding noise
        assert largest > 1e-5
        # Moves are differences of parameters, which are known to one unit of their last place.
        unit = max(float(np.spacing(np.max(np.abs(x)))) for x in jax.tree.leaves(golden["params"]))
        assert error <= case.tolerance * largest + unit
    check_state(state, golden["state_final"])


def check_state(state: Any, final: dict[str, Any]) -> None:
    """Accumulators carry their decays on the last axis there, on the first one or in a tuple here."""
    acc = state.accumulators
    final |= final.get("state_2d", {})  # Celo2: those of the tensors that Adam does not step
    last_to_first = lambda tree: jax.tree.map(lambda x: np.moveaxis(x, -1, 0), tree)
    momenta = final.get("mom_rolling", final.get("rolling_features"))
    stacked = lambda trees: jax.tree.map(lambda *xs: np.stack(xs), *trees)
    compare(stacked(acc.m), last_to_first(momenta["m"]))
    if acc.r:
        compare(stacked(acc.r), last_to_first(final["rms_rolling"]["rms"]))
    factored = final.get("fac_rolling_features", final.get("fac_rolling"))
    if factored and acc.row:
        for ours, theirs in ((acc.row, "v_row"), (acc.col, "v_col"), (acc.diag, "v_diag")):
            compare(ours, last_to_first(factored[theirs]))
    if "lstm_hidden_state" in final:
        theirs = final["lstm_hidden_state"]
        assert_close(np.broadcast_to(state.lstm.hidden, theirs["hidden"].shape), theirs["hidden"])
        assert_close(np.broadcast_to(state.lstm.cell, theirs["cell"].shape), theirs["cell"])
        assert_close(state.losses.means, final["loss_buffer"]["means"])
        assert_close(state.losses.lowest, final["loss_buffer"]["running_min"])


def compare(ours: Any, theirs: Any) -> None:
    by_path = lambda tree: dict(jax.tree_util.tree_flatten_with_path(tree)[0])
    found = by_path(ours)
    for path, x in by_path(theirs).items():
        if x.size:  # empty there: a placeholder here
            assert_close(found[path], x)


def assert_close(ours: Any, theirs: np.ndarray) -> None:
    """1 - d is known to 6e-5 where d = 0.999 in float32; and sums of both signs cancel in some entries."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.max(np.abs(theirs), initial=0.0))
