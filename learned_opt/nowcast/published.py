"""Weights that the authors of NiNo published, read into our networks.

    network, theta = learned_opt.nowcast.read_nino("nino_mlp.pt")

| file of SamsungSAILMontreal/nino | network |
| --- | --- |
| `nino_mlp.pt`, `nino_mlp_h32.pt` | WNN+ with 128 or 32 units |
| `nino_no_posw.pt` | NiNo |

The names of the tensors tell the network, their shapes its sizes. Matrices are stored as [outputs, inputs] there. The
third message-passing layer of NiNo's file, whose results nothing reads, is left out.
"""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from learned_opt.containers import Tensors, Unreadable, brief
from learned_opt.errors import WeightsError
from learned_opt.network import Layer
from learned_opt.nowcast import nino, torch_file, wnn
from learned_opt.nowcast.wiring import FEATURES, KINDS

DEAD = "gnn.convs.2."


def read_nino(path: str | os.PathLike[str]) -> tuple[wnn.WNN | nino.NiNo, Any]:
    """Network and weights, in float32, of a published file of PyTorch.

    Nothing in the file is executed (`learned_opt.nowcast.torch_file`).

    Raises:
      WeightsError: a file that is missing, damaged, of another architecture, or with weights not finite.
    """
    try:
        return from_tensors(torch_file.read(Path(path).read_bytes()))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): expected published weights") from error
    except Unreadable as error:
        raise WeightsError(f"{path} {error}") from error


def from_tensors(tensors: Tensors) -> tuple[wnn.WNN | nino.NiNo, Any]:
    """Network and weights of the tensors of a file, by their published names.

    Raises:
      Unreadable: they are not those of a network that is known.
    """
    table = _Table(tensors)
    if "wte_pos_enc_layer.weight" in tensors:
        raise Unreadable(
            "holds embeddings of GPT-2's tokens (nino.pt), which are not read: take nino_no_posw.pt, which has none"
        )
    h = table.shape("layer_embed.weight")[-1]
    kinds = table.tensor("layer_embed.weight", KINDS, h)
    if "edge_mlp.fc.0.weight" in tensors:
        inputs, outputs = table.shape("edge_proj.fc.0.weight")[-1], table.shape("edge_mlp.fc.6.weight")[0]
        hidden = tuple(table.layer(f"edge_mlp.fc.{n}", h, h) for n in (0, 2, 4))
        states = table.layer("edge_proj.fc.0", inputs, h)
        theta = wnn.Theta(kinds, states, hidden, table.layer("edge_mlp.fc.6", h, outputs))
        table.done()
        return wnn.WNN(hidden=h, states=inputs, max_horizon=outputs), theta
    inputs, outputs = table.shape("edge_proj.fc.0.weight")[-1], table.shape("edge_out.fc.2.weight")[0]
    if inputs % FEATURES or outputs % FEATURES:
        raise Unreadable(f"has {inputs} inputs and {outputs} outputs of an edge: expected multiples of {FEATURES}")
    live = (0, 1)
    theta = nino.Theta(
        kinds,
        table.layer("node_proj.fc.0", nino.POSITIONS, h),
        table.layer("edge_proj.fc.0", inputs, h),
        tuple(
            nino.Convolution(
                table.layer(f"gnn.convs.{l}.edge_encoder", h, 2 * h),
                table.layer(f"gnn.convs.{l}.pre_nns.0.0", 2 * h, h),
                table.layer(f"gnn.convs.{l}.post_nns.0.0", 2 * h, h),
                table.layer(f"gnn.convs.{l}.lin", h, h),
            )
            for l in live
        ),
        tuple(
            nino.Update(*(table.layer(f"gnn.edge_update.{l}.{x}", h, h) for x in ("lin_e", "lin_s", "lin_t", "lin1")))
            for l in live
        ),
        table.layer("edge_out.fc.0", h, h),
        table.layer("edge_out.fc.2", h, outputs),
    )
    table.done()
    return nino.NiNo(hidden=h, states=inputs // FEATURES, max_horizon=outputs // FEATURES), theta


class _Table:
    """Tensors of a file, and which of them were asked for."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors, self.read = tensors, set[str]()

    def shape(self, name: str) -> tuple[int, int]:
        if name not in self.tensors:
            some = ", ".join(brief(known) for known in sorted(self.tensors)[:3]) or "no tensors"
            raise Unreadable(f"has no tensor {name!r} but {some}: expected weights of NiNo or WNN+")
        shape = self.tensors[name].shape
        if len(shape) != 2:
            raise Unreadable(f"has {name!r} of shape {shape}: expected a matrix")
        return shape[0], shape[1]

    def tensor(self, name: str, *shape: int) -> Any:
        if name not in self.tensors or self.tensors[name].shape != shape:
            found = self.tensors[name].shape if name in self.tensors else "none"
            raise Unreadable(f"has {name!r} of shape {found}, expected {shape}: the file is of another version")
        values = self.tensors[name].astype(np.float32)
        if not np.isfinite(values).all():
            raise Unreadable(f"has weights that are not finite in {name!r}: the file is damaged")
        self.read.add(name)
        return jnp.asarray(values)

    def layer(self, name: str, inputs: int, outputs: int) -> Layer:
        w, b = self.tensor(f"{name}.weight", outputs, inputs), self.tensor(f"{name}.bias", outputs)
        return Layer(jnp.transpose(w), b)

    def done(self) -> None:
        if odd := sorted(n for n in self.tensors.keys() - self.read if not n.startswith(DEAD)):
            raise Unreadable(f"holds {brief(odd[0])}, which the network does not have: the file is of another version")
