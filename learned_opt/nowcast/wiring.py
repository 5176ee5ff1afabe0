"""Which parameter connects which neurons: the graph that the graph network reads, as explicit data.

Neurons come in named groups. A wire says that a parameter holds the weights of edges from one group to another:

    path     name of the parameter, levels joined by "/"; "" for edges without parameters (skip connections, heads)
    source   groups of the neurons that the edges leave, one after another
    target   groups of the neurons that they enter
    kind     row of the network's table of kinds
    layout   which axis of the parameter is what

A layout is one letter for each axis of `view` (the parameter's shape, or a reshape of it):

    i  source neurons          o  target neurons        d  both: edges join only neurons of the same index d
    f  features of one edge    p  parallel edges        0-9  the wire is about this index of the axis only

Source neurons are numbered by (d, i), target neurons by (d, o), each in the order of the axes. An axis of length 1 may
be repeated: its weights are then shared by several edges, as the keys of grouped queries are.

    [in, out]                  "i o"             a bias [out]                   "o"
    kernel [h, w, in, out]     "f f i o"         depthwise [h, w, 1, n]         "f f p d"
    flattened [h w c, out]     "p i o", view (h w, c, out)
    fused [in, (q k v) n]      "i 1 o", view (in, 3, n): its keys
    keys [in, g n], reversed   "o i i i", view (in, g, 1, n), repeat (1, 1, queries per key, 1)

Source: Kofinas et al. 2024 (arXiv:2403.12143) and Knyazev et al. 2025 (arXiv:2409.04434), whose kinds these are.
"""

import enum
import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.errors import InputError

PyTree = Any
LETTERS = "diopf"
FEATURES = 9
"""Most features of an edge; the edges of a larger kernel are split into parallel ones."""


class Kind(enum.IntEnum):
    """Kinds of edges: rows of the table of the published networks."""

    DENSE = 1
    OTHER = 2
    """Biases, and whatever is nothing else."""
    CONV = 3
    NORM = 4
    """Factors of a normalisation."""
    TOKEN = 5
    POSITION = 6
    QUERY = 7
    KEY = 8
    VALUE = 9
    SKIP = 10
    HEAD = 11
    SELF = 13


KINDS = 15
"""Rows of the table."""


class Layout(NamedTuple):
    """Which axis of a parameter is what; see the head of this module."""

    axes: str
    view: tuple[int, ...] | None = None
    repeat: tuple[int, ...] | None = None


class Wire(NamedTuple):
    """A parameter, or a part of one, as edges between neurons."""

    path: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    kind: int
    layout: Layout


class Wiring(NamedTuple):
    """The graph of a model; hashable."""

    groups: tuple[tuple[str, int], ...]
    """Name and number of neurons, in the order in which neurons are numbered."""
    wires: tuple[Wire, ...]


class Block(NamedTuple):
    """Sizes of the dense block of a wire."""

    d: int
    i: int
    o: int
    p: int
    f: int


def named(params: PyTree) -> dict[str, Any]:
    """The leaves by their path, levels joined by "/"; an array that is no tree is "params"."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/") or "params": leaf for path, leaf in leaves}


def letters(layout: Layout) -> tuple[str, ...]:
    """The letters of a layout, one for each axis."""
    return tuple(layout.axes.split())


def view_of(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a parameter of this shape is seen in."""
    return layout.view if layout.view is not None else shape


def block_of(layout: Layout, shape: tuple[int, ...]) -> Block:
    """Sizes of the block of a parameter of this shape."""
    view = view_of(layout, shape)
    sizes = dict.fromkeys(LETTERS, 1)
    for letter, n, repeat in zip(letters(layout), view, layout.repeat or (1,) * len(view), strict=True):
        if letter in sizes:
            sizes[letter] *= n * repeat
    split = -(-sizes["f"] // FEATURES)
    return Block(sizes["d"], sizes["i"], sizes["o"], sizes["p"] * split, min(sizes["f"], FEATURES))


def check(wiring: Wiring, params: PyTree) -> None:
    """Check that a wiring is that of these parameters: every entry of every one is on some wire.

    Raises:
      InputError: naming the first wire or parameter that does not fit.
    """
    sizes, shapes = dict(wiring.groups), {name: jnp.shape(leaf) for name, leaf in named(params).items()}
    if len(sizes) != len(wiring.groups):
        raise InputError("two groups of the wiring have one name: expected a name for each")
    covered: dict[str, np.ndarray] = {}
    for wire in wiring.wires:
        label = f"wire of {wire.path!r} ({' + '.join(wire.source)} to {' + '.join(wire.target)})"
        if unknown := [name for name in (*wire.source, *wire.target) if name not in sizes]:
            raise InputError(f"{label}: no group {unknown[0]!r}; expected one of the groups of the wiring")
        if not 0 <= wire.kind < KINDS:
            raise InputError(f"{label}: kind {wire.kind!r}, expected one of learned_opt.nowcast.Kind")
        if wire.path and wire.path not in shapes:
            raise InputError(f"{label}: the parameters have no such path; build the wiring from these parameters")
        shape = shapes.get(wire.path, ())
        _check_layout(label, wire, shape)
        block = block_of(wire.layout, shape)
        joined = (sum(sizes[name] for name in names) for names in (wire.source, wire.target))
        for letter, size, found in zip("io", (block.d * block.i, block.d * block.o), joined, strict=True):
            if size != found:
                end = "source" if letter == "i" else "target"
                raise InputError(f"{label}: layout {wire.layout.axes!r} has {size} {end} neurons, its groups {found}")
        if wire.path:
            count = coverage(wire.layout, shape)
            before = covered.get(wire.path, np.zeros_like(count))
            if before.ndim != count.ndim or (len({w.layout.view for w in wiring.wires if w.path == wire.path}) > 1):
                raise InputError(f"{label}: another wire of this parameter has another view; expected the same one")
            covered[wire.path] = before + count
    for name in shapes:
        if name not in covered:
            raise InputError(f"parameter {name!r} is on no wire: wire it, or take learned_opt.nowcast.complete")
        if not covered[name].all():
            raise InputError(f"parameter {name!r} is only partly on wires: expected all indices of its fused axis")


def _check_layout(label: str, wire: Wire, shape: tuple[int, ...]) -> None:
    view, axes = view_of(wire.layout, shape), letters(wire.layout)
    repeat = wire.layout.repeat or (1,) * len(view)
    if not wire.path:
        shape = view
    odd = [a for a in axes if a not in LETTERS and not (len(a) == 1 and a.isdigit())]
    if odd or len(axes) != len(view) or len(repeat) != len(view):
        raise InputError(f"{label}: layout {wire.layout}, expected a letter of i o d f p 0-9 for each axis of {view}")
    if math.prod(view) != math.prod(shape):
        raise InputError(f"{label}: view {view} of a parameter of shape {shape}; expected as many entries")
    if any(a.isdigit() and int(a) >= n for a, n in zip(axes, view, strict=True)):
        raise InputError(f"{label}: layout {wire.layout.axes!r} takes an index beyond the shape {view}")
    if any(r != 1 and n != 1 for r, n in zip(repeat, view, strict=True)):
        raise InputError(f"{label}: repeat {repeat} of a view {view}: only axes of length 1 are repeated")


def coverage(layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    """1 where the wire is; along axes that it takes an index of, other axes have length 1."""
    view, axes = view_of(layout, shape), letters(layout)
    # Of the other axes the length does not matter, but whether there are entries at all.
    count = np.zeros([n if a.isdigit() else min(n, 1) for a, n in zip(axes, view, strict=True)])
    count[tuple(int(a) if a.isdigit() else slice(None) for a in axes)] = 1.0
    return count


def kind_of(name: str, shape: tuple[int, ...]) -> Kind:
    """The kind of a parameter by its name and shape, where nothing else is known."""
    rank, leaf = sum(n > 1 for n in shape), name.rsplit("/", 1)[-1]
    if rank <= 1 and len(shape) != 2:
        return Kind.NORM if leaf in ("scale", "gamma", "weight") else Kind.OTHER
    return {2: Kind.DENSE, 4: Kind.CONV}.get(len(shape), Kind.OTHER)


def unconnected(params: PyTree) -> Wiring:
    """A wiring without a graph: every parameter joins two neurons of its own.

    All that the networks without a graph need; their kinds are told by names and shapes (`kind_of`).
    """
    return _join(Wiring((), ()), {name: jnp.shape(leaf) for name, leaf in named(params).items()})


def complete(wiring: Wiring, params: PyTree) -> Wiring:
    """The wiring with the parameters that it does not have, as unconnected ones; warns of each by name."""
    wired = {wire.path for wire in wiring.wires}
    rest = {name: jnp.shape(leaf) for name, leaf in named(params).items() if name not in wired}
    if rest:
        warnings.warn(f"nowcasting treats as unconnected: {', '.join(rest)}", stacklevel=2)
    return _join(wiring, rest)


def _join(wiring: Wiring, shapes: Mapping[str, tuple[int, ...]]) -> Wiring:
    groups, wires = list(wiring.groups), list(wiring.wires)
    for name, shape in shapes.items():
        ends = f"{name}:in", f"{name}:out"
        groups += [(end, 1) for end in ends]
        layout = Layout(" ".join("p" * len(shape)))
        wires.append(Wire(name, (ends[0],), (ends[1],), kind_of(name, shape), layout))
    return Wiring(tuple(groups), tuple(wires))
