"""Weights as other projects write them, for the tests that read them: flax packs the msgpack ones."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import serialization, struct

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


def saved(folder: Path, data: bytes, name: str = "theta.state") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def joined(ff: dict[str, Any]) -> np.ndarray:
    return np.concatenate([ff[f"w0__{k}"] for k in range(14)], axis=-2)


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
