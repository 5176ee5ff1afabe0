"""Files of PyTorch, written here without it, and files that want to run something."""

import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from learned_opt import nowcast
from learned_opt.errors import WeightsError
from learned_opt.network import Layer

pytestmark = pytest.mark.quick_compilation


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The names that a file of PyTorch mentions, for the pickler."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch", "__qualname__": "FloatStorage"})  # type: ignore

    def _rebuild_tensor_v2(*arguments: Any) -> Any:
        raise AssertionError

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def write(path: Path, tensors: dict[str, np.ndarray], torch: Any, extra: Any = None) -> None:
    """As torch.save: numbers in files of their own, referred to by the pickle."""
    rebuild, stream = sys.modules["torch._utils"]._rebuild_tensor_v2, io.BytesIO()  # type: ignore

    class Tensor:
        def __init__(self, key: str, x: np.ndarray) -> None:
            self.key, self.x = key, x

        def __reduce__(self) -> Any:
            x = self.x
            stride = tuple(s // x.itemsize for s in x.strides)
            return rebuild, (Storage(self.key, x), 0, x.shape, stride, False, OrderedDict())

    class Storage:
        def __init__(self, key: str, x: np.ndarray) -> None:
            self.key, self.x = key, x

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, obj.key, "cpu", obj.x.size) if isinstance(obj, Storage) else None

    state = OrderedDict((name, Tensor(str(n), x)) for n, (name, x) in enumerate(tensors.items()))
    state._metadata = OrderedDict(version=1)  # type: ignore
    Pickler(stream, 2).dump({"state_dict": state, "model_args": {"gnn": False}} | ({"x": extra} if extra else {}))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nino/data.pkl", stream.getvalue())
        archive.writestr("nino/byteorder", b"little")
        for n, x in enumerate(tensors.values()):
            archive.writestr(f"nino/data/{n}", x.tobytes(order="A"))


def published(theta: Any) -> dict[str, np.ndarray]:
    """Weights of ours under the names and in the layout of the published files."""
    found = {"layer_embed.weight": theta.kinds}

    def add(name: str, layer: Layer) -> None:
        found.update({f"{name}.weight": layer.w.T, f"{name}.bias": layer.b})

    add("edge_proj.fc.0", theta.states)
    if hasattr(theta, "layers"):
        for n, layer in zip((0, 2, 4, 6), (*theta.layers, theta.out), strict=True):
            add(f"edge_mlp.fc.{n}", layer)
    else:
        add("node_proj.fc.0", theta.nodes)
        for l, (own, update) in enumerate(zip(theta.convolutions, theta.updates, strict=True)):
            for name, layer in zip(("edge_encoder", "pre_nns.0.0", "post_nns.0.0", "lin"), own, strict=True):
                add(f"gnn.convs.{l}.{name}", layer)
            for name, layer in zip(("lin_e", "lin_s", "lin_t", "lin1"), update, strict=True):
                add(f"gnn.edge_update.{l}.{name}", layer)
        add("gnn.convs.2.lin", theta.updates[0].out)
        add("edge_out.fc.0", theta.hidden)
        add("edge_out.fc.2", theta.out)
    return {name: np.ascontiguousarray(x, np.float32) for name, x in found.items()}


@pytest.mark.parametrize("network", [nowcast.WNN(hidden=3), nowcast.NiNo(hidden=3)], ids=lambda n: type(n).__name__)
def test_reads_what_torch_writes(network: Any, tmp_path: Path, torch: Any) -> None:
    theta = network.init(jax.random.key(0))
    tensors = published(theta)
    tensors["layer_embed.weight"] = np.asfortranarray(tensors["layer_embed.weight"])
    write(tmp_path / "nino.pt", tensors, torch)
    found, weights = nowcast.read_nino(tmp_path / "nino.pt")
    assert found == network
    jax.tree.map(np.testing.assert_array_equal, weights, theta)


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, ("was_here",)


def test_runs_nothing(tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = published(nowcast.WNN(hidden=2).init(jax.random.key(0)))
    write(tmp_path / "bad.pt", tensors, torch, Attack())
    with pytest.raises(WeightsError, match=r"names '(posix|nt)\.mkdir' in its pickle"):
        nowcast.read_nino(tmp_path / "bad.pt")
    assert not (tmp_path / "was_here").exists()


def test_bad_files_are_told(tmp_path: Path, torch: Any) -> None:
    path = tmp_path / "nino.pt"
    with pytest.raises(WeightsError, match="cannot be read"):
        nowcast.read_nino(path)
    tensors = published(nowcast.WNN(hidden=2).init(jax.random.key(0)))
    cases = {
        "has no tensor 'layer_embed.weight'": {"other": np.ones((2, 2), np.float32)},
        "not finite": tensors | {"edge_proj.fc.0.bias": np.full(2, np.nan, np.float32)},
        r"has 'edge_proj.fc.0.bias' of shape \(3,\), expected \(2,\)": tensors
        | {"edge_proj.fc.0.bias": np.ones(3, np.float32)},
        "holds 'more.weight', which the network does not have": tensors | {"more.weight": np.ones(2, np.float32)},
        "embeddings of GPT-2's tokens": tensors | {"wte_pos_enc_layer.weight": np.ones((2, 2), np.float32)},
    }
    for message, found in cases.items():
        write(path, found, torch)
        with pytest.raises(WeightsError, match=message):
            nowcast.read_nino(path)
    write(path, tensors, torch)
    whole = path.read_bytes()
    for damaged, message in (
        (b"", "no zip archive"),
        (b"\x80\x02}", "no zip archive"),
        (whole[: len(whole) // 2], "truncated"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=message):
            nowcast.read_nino(path)
