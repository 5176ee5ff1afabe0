"""Weights that other projects published, read into our rules.

    rule, theta = learned_opt.read_published("theta.state", layout="celo")

| layout | file | written by |
| --- | --- | --- |
| google | `params`: msgpack of {params, gen_id, step}, or of a tuple of the three | google/learned_optimization |
| celo, celo2 | `theta.state`: msgpack of the weights alone | amoudgl/celo, amoudgl/celo2 |
| pylo | `model.safetensors` of a PyTorch module, or a folder with all files of one optimizer | Belilovsky-Lab/pylo |

A file becomes a table of named arrays (`learned_opt.containers`). The names tell the architecture and the shapes its
sizes; then every leaf of the rule's weights is looked up under its published name (`learned_opt.published_names`).

No file states its multipliers (`_unstated`), nor options that leave the shapes as they are. So files of google's tuple
form, whose LSTM never left its initial state, and PyLO's ELO, a MetaMLP with plain decays, are not told from VeLO and
small_fc, and move otherwise there.
"""

import difflib
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import containers, rules
from learned_opt.containers import Tensors, Unreadable, brief
from learned_opt.errors import InputError, WeightsError
from learned_opt.published_names import ARCHITECTURES, PIECES, Architecture
from learned_opt.rules.base import Rule, template

LAYOUTS = {"google": "msgpack", "celo": "msgpack", "celo2": "msgpack", "pylo": "safetensors"}
"""Layout -> container of the file."""
WRAPPERS = ({"params", "gen_id", "step"}, {"0", "1", "2"})
"""Maps around the weights in layout google; the weights are its "params" or "0"."""
OTHER = "the file is of another version of its project, or not of the settings that were given"


def read_published(
    path: str | os.PathLike[str], layout: str, *, rule: str | None = None, **settings: Any
) -> tuple[Rule, Any]:
    """Rule and weights of a file that another project published.

    Args:
      path: the file; with layout "pylo" also a folder with the files of one optimizer, in it or in its subfolders.
      layout: "google", "celo", "celo2" or "pylo", see the head of this module.
      rule: name of the rule where several have these weights ("celo2_base"); the usual one by default.
      settings: settings of the rule, in place of those inferred.

    Returns:
      The rule, and its weights in float32.

    Raises:
      InputError: unknown layout, rule or setting.
      WeightsError: a file that is missing, damaged, of another layout or architecture, or with weights not finite.
    """
    if layout not in LAYOUTS:
        near = difflib.get_close_matches(str(layout), LAYOUTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}, by who wrote the file{hint}")
    found, tensors = layout, Tensors()
    for file in published_files(path, layout):
        try:
            found, more = _decode(file.read_bytes(), layout)
        except OSError as error:
            raise WeightsError(f"{file} cannot be read ({error.strerror}): expected published weights") from error
        except Unreadable as error:
            raise WeightsError(f"{file} {error}") from error
        if twice := tensors.keys() & more.keys():
            raise WeightsError(f"{file} holds {brief(min(twice))} again: leave the files of one optimizer in {path}")
        tensors |= more
    try:
        architecture = _recognise(tensors)
        if found == "celo" and "celo2" in architecture.rules:
            found = "celo2"
        if found != layout:
            raise Unreadable(f"looks like layout {found}, not {layout}: read it as layout {found}")
        return _convert(architecture, tensors, layout, rule, settings)
    except Unreadable as error:
        raise WeightsError(f"{path} {error}") from error


def published_files(path: str | os.PathLike[str], layout: str) -> list[Path]:
    """The files that `read_published` reads, in its order.

    Raises:
      WeightsError: a folder without any, or where the layout is a single file.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    if LAYOUTS.get(layout) != "safetensors":
        raise WeightsError(f"{folder} is a folder: expected the file of layout {layout} in it")
    found = sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")])
    if not found:
        raise WeightsError(f"{folder} holds no *.safetensors, nor do its subfolders: expected the published files")
    return found


def _decode(data: bytes, layout: str) -> tuple[str, Tensors]:
    """The layout that the container shows ("celo" for both of Celo's), and the named arrays."""
    found, expected = containers.container(data), LAYOUTS[layout]
    try:
        if found == "safetensors":
            return "pylo", containers.read_safetensors(data)
        tree = containers.read_msgpack(data)
    except Unreadable as error:
        if found == expected:
            raise
        raise Unreadable(f"is no {expected} file: fetch it again") from error
    if isinstance(tree, dict) and tree.keys() in WRAPPERS:
        return "google", containers.flatten(tree.get("params", tree.get("0")))
    return "celo", containers.flatten(tree)


def _recognise(tensors: Tensors) -> Architecture:
    shapes = {name: x.shape for name, x in tensors.items()}
    for architecture in ARCHITECTURES:
        if architecture.belongs(shapes):
            return architecture
    some = ", ".join(brief(name) for name in sorted(tensors)[:3]) or "no tensors"
    known = ", ".join(sorted({name for architecture in ARCHITECTURES for name in architecture.rules}))
    raise Unreadable(f"holds {some}: expected weights of {known}")


def _convert(
    architecture: Architecture, tensors: Tensors, layout: str, name: str | None, settings: Mapping[str, Any]
) -> tuple[Rule, Any]:
    name = name or architecture.rules[0]
    if name not in architecture.rules:
        raise InputError(f"rule {name!r}: expected {' or '.join(architecture.rules)}, which the weights are of")
    sizes = {setting: _size(architecture, tensors, *where) for setting, where in architecture.sizes.items()}
    if "hidden" in sizes:
        sizes["hidden_layers"] = _depth(architecture.names, tensors)
    rule = rules.make_rule(name, {**sizes, **_unstated(name, layout, sizes), **settings})
    leaves, tree = jax.tree_util.tree_flatten_with_path(template(rule))
    theta, read = [], set[str]()
    for path, leaf in leaves:
        ours = jax.tree_util.keystr(path, simple=True, separator="/")
        if ours in architecture.fixed:
            theta.append(jnp.asarray(architecture.fixed[ours], jnp.float32))
            continue
        names = _published(ours, architecture.names, sizes.get("hidden_layers", 0))
        theta.append(_weights(architecture, tensors, ours, names, leaf.shape))
        read |= set(names)
    if odd := sorted(n for n in tensors.keys() - read if not re.fullmatch(architecture.unused, n)):
        raise Unreadable(f"holds {brief(odd[0])}, which rule {name!r} does not have: {OTHER}")
    return rule, jax.tree.unflatten(tree, theta)


def _tensor(architecture: Architecture, tensors: Tensors, name: str) -> np.ndarray:
    if name not in tensors:
        raise Unreadable(f"has no tensor {name!r}, which {architecture.rules[0]} needs: {architecture.incomplete}")
    return tensors[name]


def _size(architecture: Architecture, tensors: Tensors, name: str, axis: int) -> int:
    shape = _tensor(architecture, tensors, name).shape
    if not shape:
        raise Unreadable(f"has a single number as {name!r}, expected an array: {OTHER}")
    return shape[axis]


def _depth(names: Mapping[str, str], tensors: Tensors) -> int:
    """Hidden layers, told by how many layers after the first there are."""
    stem = "bank" if "bank/*/w" in names else "layers"
    layer = [names[f"{stem}/*/{x}"] for x in "wb"]
    present = (any(name.format(k=k, j=k - 1) in tensors for name in layer) for k in itertools.count(1))
    return sum(itertools.takewhile(bool, present)) + (f"{stem}/-1/w" in names)


def _published(ours: str, names: Mapping[str, str], last: int) -> list[str]:
    """Published names of a leaf of our weights; layer `last` is the last one."""
    layer = re.fullmatch(r"(bank|layers)/(\d+)/(\w)", ours)
    if not layer:
        return [names[ours]]
    stem, k, leaf = layer[1], int(layer[2]), layer[3]
    keys = (ours, *([f"{stem}/-1/{leaf}"] if k == last else []), f"{stem}/*/{leaf}")
    name = next(names[key] for key in keys if key in names).format(k=k, j=k - 1)
    return [name.replace("*", str(i)) for i in range(PIECES)] if "*" in name else [name]


def _weights(
    architecture: Architecture, tensors: Tensors, ours: str, names: list[str], shape: tuple[int, ...]
) -> jax.Array:
    """The leaf `ours` of our weights, of this shape, from the published tensors of these names."""
    pieces = [_tensor(architecture, tensors, name) for name in names]
    label = " … ".join(repr(name) for name in dict.fromkeys((names[0], names[-1])))
    try:
        whole = np.concatenate(pieces, -2) if len(pieces) > 1 else pieces[0]
    except ValueError as error:
        raise Unreadable(f"has {label} of shapes that do not join ({brief(error)}): {OTHER}") from error
    order = list(range(len(shape)))
    if architecture.transposed and ours.endswith("/w"):
        order[-2:] = reversed(order[-2:])
    stored = tuple(shape[axis] for axis in order)
    if whole.shape != stored:
        raise Unreadable(f"has {label} of shape {whole.shape}, expected {stored}: {OTHER}")
    with np.errstate(over="ignore"):
        values = np.transpose(whole, order).astype(np.float32)
    if not np.isfinite(values).all():
        raise Unreadable(f"has weights that are not finite in {label}: the file is damaged, or training had diverged")
    return jnp.asarray(values)


def _unstated(name: str, layout: str, sizes: Mapping[str, int]) -> dict[str, float]:
    """Settings that differ from the rule's defaults in the code of the project that trained the weights."""
    if name == "velo":
        # In Celo's code 1, but for the model of 4000 TPU-months, which is google's.
        googles = layout != "celo" or (sizes["lstm_units"], sizes["bank"]) == (512, 256)
        return {"ff_mult": 100.0 if googles else 1.0}
    if name == "rnn_mlp" and layout == "celo":
        return {"loss_epsilon": 1e-7}
    if name == "small_fc" and layout == "pylo":
        return {"step_mult": 0.01}
    return {}
