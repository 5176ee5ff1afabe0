"""Files as other projects write them: flax packs the msgpack ones here, and every way that they can be wrong."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization, struct

import learned_opt
from learned_opt.errors import InputError, WeightsError
from learned_opt.published import LAYOUTS, read_published
from learned_opt.rules import mlp, nn_adam, rnn_mlp

GOLDEN = Path(__file__).parent.parent / "golden"
WIDTHS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)


@struct.dataclass
class ParameterCheckpoint:
    params: Any
    gen_id: str
    step: int


class LSTMState(NamedTuple):
    hidden: Any
    cell: Any


def published(name: str) -> dict[str, Any]:
    """The weights of a golden file as nested dictionaries."""
    tree: dict[str, Any] = {}
    with np.load(GOLDEN / f"{name}.npz") as file:
        for key in file.files:
            if key.startswith("theta|"):
                _, *path, leaf = key.split("|")
                node = tree
                for part in path:
                    node = node.setdefault(part, {})
                node[leaf] = file[key]
    return tree


def scheduler(units: int, inputs: int, bank: int | None, rng: Any) -> dict[str, Any]:
    """Random weights of VeLO, Celo or (without a bank) Celo-Adam under their published names."""
    x = lambda *shape: rng.normal(size=shape).astype(np.float32)
    linear = lambda n, m: {"w": x(n, m), "b": x(m)}
    rnn = {name: linear(inputs, units) for name in ("linear", "linear_1", "linear_2")}
    rnn |= {"rnn/linear": linear(2 * units, 4 * units), "step_size": linear(units, 1)}
    theta = {"lstm_init_state": LSTMState(x(1, units), x(1, units)), "rnn_params": rnn}
    if bank is not None:
        rnn["rnn_to_controls"] = linear(units, bank)
        theta["ff_mod_stack"] = {"~": {f"w0__{k}": x(bank, n, 4) for k, n in enumerate(WIDTHS)}}
        theta["ff_mod_stack"]["~"] |= {"b0": x(bank, 4), "w1": x(bank, 4, 4), "b1": x(bank, 4)}
        theta["ff_mod_stack"]["~"] |= {"w2": x(bank, 4, 3), "b2": x(bank, 3)}
    return theta


@pytest.fixture
def rng() -> Any:
    return np.random.default_rng(0)


def saved(folder: Path, data: bytes, name: str = "theta.state") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def joined(ff: dict[str, Any]) -> np.ndarray:
    return np.concatenate([ff[f"w0__{k}"] for k in range(14)], axis=-2)


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


def pylo_velo(source: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `VeLORNN` and `VeLOMLP` hold, with the parts that nothing reads."""
    source = serialization.to_state_dict(source)
    rnn = {f"lstm_init_state.{i}": source["lstm_init_state"][part] for i, part in enumerate(("hidden", "cell"))}
    modules = {"mix_layer1": "linear", "mix_layer2": "linear_1", "final_mix_layer": "linear_2"}
    modules |= {"lstm.linear": "rnn/linear", "rnn_to_controls": "rnn_to_controls", "step_size": "step_size"}
    for module, name in modules.items():
        rnn |= {
            f"{module}.weight": source["rnn_params"][name]["w"].T,
            f"{module}.bias": source["rnn_params"][name]["b"],
        }
    ff = source["ff_mod_stack"]["~"]
    bank = {"input_weights_": joined(ff), "hidden_weights_.0": ff["w1"], "output_weights_": ff["w2"]}
    bank = {name: np.swapaxes(w, -1, -2) for name, w in bank.items()}
    bank |= {"input_bias_": ff["b0"], "hidden_bias_.0": ff["b1"], "output_bias_": ff["b2"]}
    bank |= {"input_weights": bank["input_weights_"][0], "hidden_bias.0": ff["b1"][0]}
    return tuple({name: np.ascontiguousarray(x) for name, x in part.items()} for part in (rnn, bank))  # pyright: ignore


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


# What can be wrong


def packed(shape: Any, dtype: Any, raw: bytes) -> Any:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, raw)))


def celo2_with(**changes: Any) -> bytes:
    ff = published("celo2__perturbed")["ff_mod_stack"]["~"] | changes
    return serialization.to_bytes({"ff_mod_stack": {"~": {n: x for n, x in ff.items() if x is not None}}})


def celo_with(part: str, name: str, **changes: Any) -> bytes:
    theta = published("celo__perturbed")
    theta[part][name] |= changes
    return serialization.to_bytes(theta)


GOOD = celo2_with()
BAD = {
    "empty": (b"", "celo2", "is empty: fetch it again"),
    "pickle": (pickle.dumps({"w": 1}), "celo2", "is a pickle, which runs code .* convert it"),
    "torch.save": (b"PK\x03\x04rest", "pylo", "is a zip archive, as torch.save"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "celo", "`git lfs pull`"),
    "text": (b"<!doctype html><p>not found", "celo", "no msgpack file .*: fetch it again"),
    "text for pylo": (b"<!doctype html><p>not found", "pylo", "is no safetensors file: fetch it again"),
    "truncated": (GOOD[:-1], "celo2", "is truncated, or no msgpack file"),
    "more behind": (GOOD + b"\0", "celo2", "is truncated, or no msgpack file"),
    "no map": (msgpack.packb([1, 2]), "celo2", "holds a list at '': expected arrays"),
    "no weights": (msgpack.packb({"a": {}}), "celo2", "holds no tensors: expected weights of celo, celo2"),
    "other weights": (serialization.to_bytes({"Dense_0": np.ones(3)}), "celo", "holds 'Dense_0': expected weights of"),
    "a string for an array": (celo2_with(w1="x"), "celo2", "holds a str at 'ff_mod_stack/~/w1'"),
    "celo2 as celo": (GOOD, "celo", "looks like layout celo2, not celo: read it as layout celo2"),
    "celo as celo2": (celo_with("rnn_params", "step_size"), "celo2", "looks like layout celo, not celo2"),
    "bare as google": (celo_with("rnn_params", "step_size"), "google", "looks like layout celo, not google"),
    "msgpack as pylo": (GOOD, "pylo", "looks like layout celo2, not pylo"),
    "missing": (celo2_with(w2=None), "celo2", "has no tensor 'ff_mod_stack/~/w2', which celo2 needs"),
    "missing bias": (celo2_with(b1=None), "celo2", "has no tensor 'ff_mod_stack/~/b1', which celo2 needs"),
    "missing piece": (celo2_with(w0__5=None), "celo2", "has no tensor 'ff_mod_stack/~/w0__5'"),
    "scalar": (celo2_with(b0=np.float32(1)), "celo2", "has a single number as 'ff_mod_stack/~/b0'"),
    "pieces": (celo2_with(w0__5=np.ones((3, 7))), "celo2", r"'ff_mod_stack/~/w0__0' … .* do not join"),
    "wide piece": (celo2_with(w0__5=np.ones((4, 8))), "celo2", r"of shape \(31, 8\), expected \(30, 8\)"),
    "shape": (celo2_with(w1=np.ones((8, 9))), "celo2", r"has 'ff_mod_stack/~/w1' of shape \(8, 9\), expected \(8, 8\)"),
    "axes": (celo2_with(w1=np.ones(64)), "celo2", r"of shape \(64,\), expected \(8, 8\)"),
    "unknown": (celo2_with(w_extra=np.ones(3)), "celo2", "holds 'ff_mod_stack/~/w_extra', which rule 'celo2' does not"),
    "NaN": (celo2_with(b1=np.full(8, np.nan)), "celo2", "weights that are not finite in 'ff_mod_stack/~/b1'"),
    "too large for float32": (celo2_with(b1=np.full(8, 1e300)), "celo2", "weights that are not finite"),
    "units": (celo_with("rnn_params", "step_size", w=np.ones((10**6, 1))), "celo", r"expected \(1, 1000000\)"),
    "inputs": (celo_with("rnn_params", "linear_1", w=np.ones((31, 64))), "celo", r"\(31, 64\), expected \(30, 64\)"),
    "claims much": (msgpack.packb({"w": packed((2**40, 2**40), "float32", b"1234")}), "celo", "in 4 bytes"),
    "claims nothing": (msgpack.packb({"w": packed((0, 2**60), "float32", b"")}), "celo", "an array of shape"),
    "negative": (msgpack.packb({"w": packed((-1, -1), "float32", b"1234")}), "celo", "an array of shape"),
    "odd shape": (msgpack.packb({"w": packed(("a",), "float32", b"1234")}), "celo", "an array of shape"),
    "no shape": (msgpack.packb({"w": packed(3, "float32", b"1234")}), "celo", "no msgpack file"),
    "objects": (msgpack.packb({"w": packed((1,), "object", b"12345678")}), "celo", "an array of dtype 'object'"),
    "odd dtype": (msgpack.packb({"w": packed((1,), 5, b"12345678")}), "celo", "an array of dtype None"),
    "no triple": (msgpack.packb({"w": msgpack.ExtType(1, b"\x01")}), "celo", "no msgpack file"),
    "extension": (msgpack.packb({"w": msgpack.ExtType(9, b"\x01")}), "celo", "extension 9"),
    "endless list": (b"\xdd\xff\xff\xff\xff", "celo", "no msgpack file"),
    "deep lists": (b"\x91" * 100_000, "celo", "no msgpack file"),
    "deep maps": (b"\x81\xa1a" * 900 + b"\xc0", "celo", "no msgpack file|holds a NoneType"),
    "chunks": (msgpack.packb({"w": {"__msgpack_chunked_array__": True, "shape": {}}}), "celo", "chunked array"),
    "few chunks": (
        serialization.to_bytes(
            {"w": {"__msgpack_chunked_array__": True, "shape": {"0": 9}, "chunks": {"0": np.ones(4)}}},
        ),
        "celo",
        "chunked array",
    ),
    "long names": (serialization.to_bytes({"x\n" * 500: np.ones(3)}), "celo", "…: expected weights"),
    "safetensors of integers": (safetensors.numpy.save({"b0": np.ones(3, int)}), "pylo", "array of dtype 'I64'"),
    "safetensors as celo": (
        safetensors.numpy.save({"network.input.weight": np.ones((3, 2)), "network.input.bias": np.ones(3)}),
        "celo",
        "looks like layout pylo, not celo",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    data, layout, message = BAD[case]
    path = saved(tmp_path, data)
    with pytest.raises(WeightsError, match=message) as raised:
        read_published(path, layout)
    assert str(raised.value).startswith(f"{path} ") and "\n" not in str(raised.value) and len(str(raised.value)) < 600


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent cannot be read .No such file"):
        read_published(tmp_path / "absent", "celo")
    with pytest.raises(WeightsError, match="is a folder: expected the file of layout celo in it"):
        read_published(tmp_path, "celo")
    with pytest.raises(WeightsError, match=r"holds no .*safetensors, nor do its subfolders"):
        read_published(tmp_path, "pylo")


def test_bad_arguments(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD)
    with pytest.raises(InputError, match=r"layout 'gogle': expected one of google, celo, celo2, pylo.* mean 'google'"):
        read_published(path, "gogle")
    with pytest.raises(InputError, match="has no setting 'hiden': did you mean 'hidden'"):
        read_published(path, "celo2", hiden=3)
    with pytest.raises(WeightsError, match=r"expected \(30, 3\): .* not of the settings that were given"):
        read_published(path, "celo2", hidden=3)


def containers(rng: Any) -> dict[str, tuple[bytes, str]]:
    """A file of every container, the larger ones of many tensors."""
    rnn, bank = pylo_velo(scheduler(6, 30, 5, rng))
    return {
        "celo": (serialization.to_bytes(scheduler(6, 18, 1, rng)), "celo"),
        "google": (serialization.to_bytes(ParameterCheckpoint(scheduler(6, 30, 5, rng), "x", 1)), "google"),
        "pylo": (safetensors.numpy.save(rnn | bank), "pylo"),
    }


@pytest.mark.parametrize("kind", ["celo", "google", "pylo"])
def test_every_truncation_is_refused(tmp_path: Path, kind: str, rng: Any) -> None:
    data, layout = containers(rng)[kind]
    read_published(saved(tmp_path, data), layout)
    for size in range(0, len(data), 97):
        path = saved(tmp_path, data[:size])
        for read_as in LAYOUTS:
            with pytest.raises(WeightsError):
                read_published(path, read_as)


@pytest.mark.parametrize("kind", ["celo", "google", "pylo"])
def test_changed_bytes_are_refused_or_read(tmp_path: Path, kind: str, rng: Any) -> None:
    """Most positions hold numbers; names and headers are hit on purpose."""
    data, layout = containers(rng)[kind]
    structure = [i for i in range(len(data)) if data[i - 1 : i + 2].isalnum() or i < 20]
    refused = 0
    for i in rng.choice(structure, 150):
        changed = bytearray(data)
        changed[i] = rng.integers(256)
        try:
            read_published(saved(tmp_path, bytes(changed)), layout)
        except WeightsError:
            refused += 1
    assert refused > 30
