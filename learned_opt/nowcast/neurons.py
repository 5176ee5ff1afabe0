"""From neurons to the ends of their edges and back."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from learned_opt.nowcast.base import Bundle
from learned_opt.nowcast.wiring import Wiring


class Ends(NamedTuple):
    """What the edges of a bundle get from the neurons at their two ends."""

    source: Float[Array, "d i H"]
    target: Float[Array, "d o H"]


def starts(graph: Wiring) -> dict[str, int]:
    """Number of the first neuron of each group."""
    names = [name for name, _ in graph.groups]
    return dict(zip(names, np.cumsum([0, *(n for _, n in graph.groups)]).tolist(), strict=False))


def ends(bundle: Bundle, graph: Wiring, source: Float[Array, "N H"], target: Float[Array, "N H"]) -> Ends:
    """Rows of what all neurons have for edges that leave them, and for edges that enter them."""
    first, sizes = starts(graph), dict(graph.groups)

    def rows(groups: Iterator[tuple[str, ...]]) -> np.ndarray:
        numbers = [np.arange(first[name], first[name] + sizes[name]) for names in groups for name in names]
        return np.concatenate(numbers).reshape(bundle.block.d, -1)

    wires = bundle.wires
    return Ends(source[rows(wire.source for wire in wires)], target[rows(wire.target for wire in wires)])


def means(graph: Wiring, messages: Sequence[tuple[Bundle, Float[Array, "_ _ H"]]]) -> Float[Array, "N H"]:
    """Means over the edges into each neuron, of bundles' sums over the edges into theirs, [d, o, H].

    Every neuron has an edge.
    """
    sums, degree = dict[str, Array](), dict[str, int]()
    for bundle, own in messages:
        flat, start = jnp.reshape(own, (-1, own.shape[-1])), 0
        sizes = dict(graph.groups)
        for name in (name for wire in bundle.wires for name in wire.target):
            rows = flat[start : start + sizes[name]]
            sums[name] = sums[name] + rows if name in sums else rows
            degree[name] = degree.get(name, 0) + bundle.block.i * bundle.block.p
            start += sizes[name]
    return jnp.concatenate([sums[name] / degree[name] for name, _ in graph.groups])
