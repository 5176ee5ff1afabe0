"""The wiring of a task's model, told by the class of the model; and wirings as JSON."""

from collections.abc import Mapping
from typing import Any

import jax

from learned_opt import nowcast
from learned_opt.nowcast import Layout, Wire, Wiring
from tasks.families.autoencoder import Autoencoder
from tasks.families.image_conv import ImageConv
from tasks.families.image_mlp import ImageMLP
from tasks.families.tabular_mlp import TabularClassifier, TabularRegressor
from tasks.families.transformer_lm import TransformerLM

CHAINS = (Autoencoder, ImageMLP, TabularClassifier, TabularRegressor)
"""Perceptrons of Haiku's, one layer after another."""


def wiring_of(task: Any) -> Wiring | None:
    """The wiring of a task's parameters; None where it is not known how to build it."""
    model = getattr(task, "model", None)
    if not isinstance(model, (*CHAINS, ImageConv, TransformerLM)):
        return None
    params = jax.eval_shape(task.init, jax.random.key(0)).params
    if isinstance(model, TransformerLM):
        return nowcast.transformer(params, heads=model.heads)
    if isinstance(model, ImageConv):
        return nowcast.conv_net(params, _conv_order(params, len(model.channels)))
    return nowcast.mlp(params)


def _conv_order(params: Mapping[str, Any], depth: int) -> list[str]:
    """Modules in the order of their application: each convolution, its norm where it has one, and the logits."""
    order = []
    for n in range(depth):
        suffix = f"_{n}" if n else ""
        order += [f"{kind}{suffix}" for kind in ("conv", "layer_norm", "batch_norm") if f"{kind}{suffix}" in params]
    return [*order, "linear"]


def to_json(wiring: Wiring) -> dict[str, Any]:
    """The wiring as JSON values."""
    wires = [
        [w.path, list(w.source), list(w.target), int(w.kind), w.layout.axes, w.layout.view, w.layout.repeat]
        for w in wiring.wires
    ]
    return {"groups": [list(group) for group in wiring.groups], "wires": wires}


def from_json(values: Mapping[str, Any]) -> Wiring:
    """The way back."""
    sizes = lambda x: None if x is None else tuple(x)
    wires = tuple(
        Wire(path, tuple(source), tuple(target), kind, Layout(axes, sizes(view), sizes(repeat)))
        for path, source, target, kind, axes, view, repeat in values["wires"]
    )
    return Wiring(tuple((name, n) for name, n in values["groups"]), wires)
