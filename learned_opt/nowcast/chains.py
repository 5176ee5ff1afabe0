"""Wirings of perceptrons, convolutional nets and residual nets.

    neurons: the inputs, then for every layer one for each of its vectors, and its outputs
    weight   inputs of the layer -> outputs           vectors, those of a normalisation too: their neuron -> outputs
    skip     input of a block -> its output, neuron by neuron

Each channel of a convolution is one neuron. A kernel is one edge with a feature for each position. After a flattening
there are as many parallel edges as positions. The numbers of the neurons are those of the published code for chains.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from learned_opt.errors import InputError
from learned_opt.nowcast.draft import Draft, in_order
from learned_opt.nowcast.wiring import Kind, Layout, Wiring

PyTree = Any
FLATTENED = {"channels_last": "p i o", "channels_first": "i p o"}
"""How a flattened image is numbered -> layout of the matrix after it."""


class Residual(NamedTuple):
    """A residual block: names of modules in the order of their application."""

    main: tuple[str, ...]
    shortcut: tuple[str, ...] = ()
    """Where it is not the identity."""


def mlp(params: PyTree, modules: Sequence[str] | None = None, *, unknown: str = "refuse") -> Wiring:
    """The wiring of a perceptron: linear layers one after another, with norms after them or not.

    Args:
      params: its parameters.
      modules: names of the modules in the order of their application; not needed where their numbers tell it.
      unknown: what becomes of other parameters: "refuse", or "unconnected" with a warning.

    Raises:
      InputError: naming the module that does not fit, or the parameters that are not known.
    """
    draft = Draft(params)
    order = in_order(draft, modules)
    for module in order:
        weight = draft.weight(module)
        if weight and len(draft.shapes[weight]) != 2:
            raise InputError(f"{weight!r} has shape {draft.shapes[weight]}: expected a matrix; take conv_net")
    _chain(draft, order, _inputs(draft, order))
    return draft.done(unknown)


def conv_net(
    params: PyTree, modules: Sequence[str], *, flatten: str = "channels_last", unknown: str = "refuse"
) -> Wiring:
    """The wiring of convolutions and linear layers one after another, pooled or flattened between the two.

    Args:
      params: its parameters.
      modules: names of the modules, norms too, in the order of their application.
      flatten: how images were flattened, if they were: "channels_last" as in JAX, or "channels_first".
      unknown: as in `mlp`.

    Raises:
      InputError: as in `mlp`.
    """
    draft = Draft(params)
    order = in_order(draft, modules)
    _chain(draft, order, _inputs(draft, order), flatten=flatten)
    return draft.done(unknown)


def residual_net(
    params: PyTree,
    stem: Sequence[str],
    blocks: Sequence[Residual],
    head: Sequence[str],
    *,
    flatten: str = "channels_last",
    unknown: str = "refuse",
) -> Wiring:
    """The wiring of a residual net, of convolutions or linear layers, with norms before or after them.

    Args:
      params: its parameters.
      stem: names of the modules before the blocks, at least one with a weight.
      blocks: modules of each block.
      head: modules after the blocks.
      flatten: as in `conv_net`.
      unknown: as in `mlp`.

    Raises:
      InputError: as in `mlp`; or a shortcut without parameters between different numbers of channels.
    """
    draft = Draft(params)
    x = _chain(draft, in_order(draft, stem), _inputs(draft, stem))
    for block in blocks:
        y = _chain(draft, block.main, x)
        if y == x:
            raise InputError(f"block {block.main!r} has no weight: expected a linear layer or a convolution")
        if block.shortcut:
            if _chain(draft, block.shortcut, x, end=y) != y:
                raise InputError(f"shortcut {block.shortcut!r} has no weight: name a layer, or leave the shortcut out")
        elif draft.groups[x] != draft.groups[y]:
            raise InputError(
                f"block {block.main!r} goes from {draft.groups[x]} to {draft.groups[y]} channels without a shortcut: "
                "name its modules, or write its wires"
            )
        else:
            draft.skip(x, y)
        x = y
    _chain(draft, in_order(draft, head), x, flatten=flatten)
    return draft.done(unknown)


def _inputs(draft: Draft, modules: Sequence[str]) -> str:
    """The group of inputs, as the first weight has them."""
    for module in modules:
        if weight := draft.weight(module):
            return draft.group("inputs", draft.shapes[weight][-2])
    raise InputError(f"modules {', '.join(modules) or 'none'} have no weight: expected linear layers or convolutions")


def _chain(
    draft: Draft, modules: Sequence[str], x: str, *, end: str | None = None, flatten: str = "channels_last"
) -> str:
    """Wire modules one after another from group x; the last weight leads to `end`. Returns the last group."""
    if flatten not in FLATTENED:
        raise InputError(f"flatten is {flatten!r}: expected one of {', '.join(FLATTENED)}")
    layers: list[list[str]] = [[]]
    for module in modules:
        layers += [[module]] if draft.weight(module) else []
        layers[-1] += [] if draft.weight(module) else [module]
    for path in draft.vectors(layers[0]):
        draft.vector(path, x)
    for number, layer in enumerate(layers[1:], 2):
        weight = draft.weight(layer[0])
        assert weight is not None
        vectors = draft.vectors(layer)
        draft.nodes(vectors)
        size = draft.shapes[weight][-1]
        y = draft.group(end if end and number == len(layers) else f"{layer[0]}:out", size)
        _weight(draft, weight, x, y, flatten)
        for path in vectors:
            draft.vector(path, y)
        x = y
    return x


def _weight(draft: Draft, path: str, x: str, y: str, flatten: str) -> None:
    shape, inputs = draft.shapes[path], draft.groups[x]
    if "transpose" in path.lower():
        raise InputError(f"{path!r} is of a transposed convolution, whose axes are not known here: write its wire")
    if path.rpartition("/")[2] in ("embedding", "embeddings"):
        return draft.wire(path, x, y, Kind.TOKEN, Layout("i o"))
    if len(shape) == 2:
        convolved = any(wire.target == (x,) and wire.kind == Kind.CONV for wire in draft.wires)
        if shape[0] == inputs:
            return draft.wire(path, x, y, Kind.DENSE, Layout("i o"))
        if convolved and shape[0] % inputs == 0:
            view = (shape[0] // inputs, inputs, shape[1]) if flatten == "channels_last" else None
            layout = Layout(FLATTENED[flatten], view or (inputs, shape[0] // inputs, shape[1]))
            return draft.wire(path, x, y, Kind.DENSE, layout)
    elif 3 <= len(shape) <= 5:
        space, axes = shape[:-2], " ".join("f" * (len(shape) - 2))
        if shape[-2] == inputs:
            return draft.wire(path, x, y, Kind.CONV, Layout(f"{axes} i o"))
        if shape[-2] == 1 and shape[-1] % inputs == 0:
            view = (*space, 1, inputs, shape[-1] // inputs)
            return draft.wire(path, x, y, Kind.CONV, Layout(f"{axes} p d o", view))
    raise InputError(
        f"{path!r} of shape {shape} after the {inputs} neurons of {x!r}: expected as many inputs; check the order of "
        "the modules, or write the wire"
    )
