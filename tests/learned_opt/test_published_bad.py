"""Every way that a published file can be wrong is told in one line."""

import pickle
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization
from published_files import ParameterCheckpoint, published, pylo_velo, saved, scheduler

from learned_opt.errors import InputError, WeightsError
from learned_opt.published import LAYOUTS, read_published


@pytest.fixture
def rng() -> Any:
    return np.random.default_rng(0)


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
