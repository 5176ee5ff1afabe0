"""Files as other projects write them become rules and weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization
from published_files import ParameterCheckpoint, joined, published, pylo_velo, saved, scheduler

import learned_opt
from learned_opt.errors import InputError, WeightsError
from learned_opt.published import read_published
from learned_opt.rules import mlp, nn_adam, rnn_mlp


@pytest.fixture
def rng() -> Any:
    return np.random.default_rng(0)


def equal(ours: Any, theirs: Any) -> None:
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, np.asarray(theirs, np.float32))


def check_scheduler(theta: Any, source: dict[str, Any]) -> None:
    equal(theta.initial.hidden, source["lstm_init_state"]["hidden"])
    equal(theta.initial.cell, source["lstm_init_state"]["cell"])
    rnn = source["rnn_params"]
    for ours, name in ((theta.mix_1, "linear_1"), (theta.mix_2, "linear_2"), (theta.lstm, "rnn/linear")):
        equal(ours.w, rnn[name]["w"])
        equal(ours.b, rnn[name]["b"])
    equal(theta.step_size.w, rnn["step_size"]["w"])
    equal(theta.step_size.b, rnn["step_size"]["b"])


def check_velo(theta: Any, source: dict[str, Any]) -> None:
    check_scheduler(theta.scheduler, source)
    equal(theta.controls.w, source["rnn_params"]["rnn_to_controls"]["w"])
    equal(theta.controls.b, source["rnn_params"]["rnn_to_controls"]["b"])
    check_layers(theta.bank, source["ff_mod_stack"]["~"])


def check_layers(layers: Any, ff: dict[str, Any]) -> None:
    assert len(layers) == 3
    equal(layers[0].w, joined(ff) if "w0__0" in ff else ff["w0"])
    for k in (1, 2):
        equal(layers[k].w, ff[f"w{k}"])
    for k in range(3):
        equal(layers[k].b, ff[f"b{k}"])


def test_celo(tmp_path: Path) -> None:
    source = published("celo__perturbed")
    rule, theta = read_published(saved(tmp_path, serialization.to_bytes(source)), "celo")
    assert rule == learned_opt.Celo(lstm_units=64, bank=1)
    check_velo(theta, source)


def test_small_velo(tmp_path: Path) -> None:
    source = published("velo_s__perturbed")
    rule, theta = read_published(saved(tmp_path, serialization.to_bytes(source)), layout="celo")
    assert rule == learned_opt.VeLO(lstm_units=64, bank=32, ff_mult=1.0)
    check_velo(theta, source)


@pytest.mark.parametrize("layout", ["google", "celo"])
def test_large_velo_has_the_published_size_and_factor(tmp_path: Path, layout: str, rng: Any) -> None:
    source = scheduler(512, 30, 256, rng)
    data = serialization.to_bytes(source)
    assert len(data) == 9_282_507  # `velo-4000/theta.state`, as its authors publish it
    if layout == "google":
        data = serialization.to_bytes(ParameterCheckpoint(source, "0" * 32, 5620))
        assert len(data) == 9_282_564  # `velo-4000/params`
    rule, theta = read_published(saved(tmp_path, data), layout)
    assert rule == learned_opt.VeLO()
    equal(theta.bank[0].b, source["ff_mod_stack"]["~"]["b0"])


@pytest.mark.parametrize("wrap", [lambda theta: ParameterCheckpoint(theta, "id", 7), lambda theta: (theta, "", 0)])
def test_checkpoints_of_google(tmp_path: Path, wrap: Callable[[Any], Any], rng: Any) -> None:
    source = scheduler(8, 30, 5, rng)
    path = saved(tmp_path, serialization.to_bytes(wrap(source)), "params")
    rule, theta = read_published(path, "google")
    assert rule == learned_opt.VeLO(lstm_units=8, bank=5, ff_mult=100.0)
    check_velo(theta, serialization.to_state_dict(source))
    assert read_published(path, "google", ff_mult=3.0, step_mult=0.5)[0] == learned_opt.VeLO(
        lstm_units=8, bank=5, ff_mult=3.0, step_mult=0.5
    )
    with pytest.raises(WeightsError, match="looks like layout google, not celo: read it as layout google"):
        read_published(path, "celo")


def test_celo_adam(tmp_path: Path) -> None:
    source = published("celo_adam__perturbed")
    rule, theta = read_published(saved(tmp_path, serialization.to_bytes(source)), "celo")
    assert rule == learned_opt.CeloAdam(lstm_units=64)
    check_scheduler(theta.scheduler, source)


def test_celo2_and_its_base(tmp_path: Path) -> None:
    source = published("celo2__perturbed")
    path = saved(tmp_path, serialization.to_bytes(source))
    rule, theta = read_published(path, "celo2")
    assert rule == learned_opt.Celo2()
    check_layers(theta.layers, source["ff_mod_stack"]["~"])
    rule, theta = read_published(path, "celo2", rule="celo2_base")
    assert rule == learned_opt.Celo2Base()
    check_layers(theta.layers, source["ff_mod_stack"]["~"])
    with pytest.raises(InputError, match="rule 'velo': expected celo2 or celo2_base"):
        read_published(path, "celo2", rule="velo")


def test_small_fc(tmp_path: Path) -> None:
    source = published("adafac_mlp__perturbed")
    rule, theta = read_published(saved(tmp_path, serialization.to_bytes(source)), "celo")
    assert rule == learned_opt.SmallFC()
    check_layers(theta.layers, source["nn"]["~"])
    equal(theta.momentum_decays, source["momentum_decays"])
    equal(theta.rms_decays, source["rms_decays"])
    equal(theta.factored_decays, source["adafactor_decays"])


def test_mlp(tmp_path: Path) -> None:
    source = published("mlp__perturbed")
    rule, theta = read_published(saved(tmp_path, serialization.to_bytes(source)), "celo")
    assert rule == mlp.MLP()
    for k in range(3):
        equal(theta.layers[k].w, source[f"mlp/~/linear_{k}"]["w"])
        equal(theta.layers[k].b, source[f"mlp/~/linear_{k}"]["b"])


def test_rnn_mlp(tmp_path: Path) -> None:
    source = published("rnn_mlp__perturbed")
    rule, theta = read_published(saved(tmp_path, serialization.to_bytes(source)), "celo")
    assert rule == rnn_mlp.RNNMLP(loss_epsilon=1e-7)
    equal(theta.from_lstm, source["initial_from_lstm"])
    equal(theta.from_mlp, source["initial_from_mlp"])
    equal(theta.lstm_state.cell, source["lstm_init_state"]["cell"])
    equal(theta.lstm.w, source["rnn_params"]["rnn/linear"]["w"])
    equal(theta.to_lstm.w, source["rnn_to_in_params"]["rnn_to_in"]["w"])
    equal(theta.to_mlp.b, source["rnn_to_ff_params"]["rnn_to_ff"]["b"])
    equal(theta.layers[2].w, source["ffmod_params"]["mlp/~/linear_2"]["w"])


def test_nn_adam_with_numpy_scalars(tmp_path: Path) -> None:
    source = published("nn_adam__perturbed")
    scalars = {name: np.float32(x) for name, x in source.items() if name.startswith("per_layer")}
    rule, theta = read_published(saved(tmp_path, serialization.to_bytes(source | scalars)), "celo")
    assert rule == nn_adam.NNAdam()
    for ours, name in zip(theta.hyper, ("lr", "beta1", "beta2", "epsilon"), strict=True):
        equal(ours, scalars[f"per_layer_{name}"])
    equal(theta.controls.w, source["rnn_to_controls_params"]["rnn_to_controls"]["w"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
def test_other_dtypes_become_float32(tmp_path: Path, dtype: Any) -> None:
    source = jax.tree.map(lambda x: np.asarray(x, dtype), published("celo2__perturbed"))
    _, theta = read_published(saved(tmp_path, serialization.to_bytes(source)), "celo2")
    check_layers(theta.layers, source["ff_mod_stack"]["~"])


def test_arrays_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = published("celo2__perturbed")
    whole = serialization.to_bytes(source)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    data = serialization.to_bytes(source)
    assert b"__msgpack_chunked_array__" in data and data != whole
    _, theta = read_published(saved(tmp_path, data), "celo2")
    check_layers(theta.layers, source["ff_mod_stack"]["~"])


# PyLO


def test_pylo_velo_in_two_files(tmp_path: Path, rng: Any) -> None:
    source = scheduler(6, 30, 5, rng)
    rnn, bank = pylo_velo(source)
    one = saved(tmp_path / "VeLO_RNN", safetensors.numpy.save(rnn), "model.safetensors")
    with pytest.raises(WeightsError, match=r"no tensor 'input_bias_'.* VeLO_RNN and VeLO_MLP, give the folder"):
        read_published(one, "pylo")
    saved(tmp_path / "VeLO_MLP", safetensors.numpy.save(bank), "model.safetensors")
    rule, theta = read_published(tmp_path, "pylo")
    assert rule == learned_opt.VeLO(lstm_units=6, bank=5, ff_mult=100.0)
    check_velo(theta, serialization.to_state_dict(source))
    saved(tmp_path, safetensors.numpy.save(bank), "again.safetensors")
    with pytest.raises(WeightsError, match=r"holds '[a-z_.0]+' again: leave the files of one optimizer"):
        read_published(tmp_path, "pylo")


def test_pylo_velo_has_the_published_size(rng: Any) -> None:
    rnn, _ = pylo_velo(scheduler(512, 30, 256, rng))
    assert len(safetensors.numpy.save(rnn)) == 9_119_908  # `VeLO_RNN/model.safetensors`


def test_pylo_small_fc(tmp_path: Path, rng: Any) -> None:
    sizes = {"input": (32, 39), "linear_0": (32, 32), "output": (2, 32)}
    tensors = {f"network.{n}.weight": rng.normal(size=shape).astype(np.float32) for n, shape in sizes.items()}
    tensors |= {f"network.{n}.bias": rng.normal(size=m).astype(np.float32) for n, (m, _) in sizes.items()}
    data = safetensors.numpy.save(tensors)
    assert len(data) == 10_096  # `mulo/model.safetensors`
    rule, theta = read_published(saved(tmp_path, data, "model.safetensors"), "pylo")
    assert rule == learned_opt.SmallFC(hidden=32, step_mult=0.01)
    for layer, name in zip(theta.layers, sizes, strict=True):
        equal(layer.w, tensors[f"network.{name}.weight"].T)
        equal(layer.b, tensors[f"network.{name}.bias"])
    np.testing.assert_allclose(theta.rms_decays, [0.0108], rtol=1e-3)
    np.testing.assert_allclose(theta.factored_decays, [0.186, -0.109, -0.062], rtol=1e-2)


def test_pylo_celo2(tmp_path: Path) -> None:
    ff = published("celo2__perturbed")["ff_mod_stack"]["~"]
    tensors = {f"w0.{k}": ff[f"w0__{k}"] for k in range(14)} | {"b0": ff["b0"]}
    tensors |= {f"dense_{x}.{k}": ff[f"{x}{k + 1}"] for k in range(2) for x in "wb"}
    rule, theta = read_published(saved(tmp_path, safetensors.numpy.save(tensors), "model.safetensors"), "pylo")
    assert rule == learned_opt.Celo2()
    check_layers(theta.layers, ff)
