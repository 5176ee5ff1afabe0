"""A wiring in the making: what the builders of wirings share.

Parameters come in modules, by the path above them: Haiku's {"w", "b"}, {"scale", "offset"}, {"embeddings"}; Flax's
{"kernel", "bias"}, {"scale", "bias"}, {"embedding"}. Matrices are [in, out] in both, kernels [..., in, out]. A vector
has a neuron of its own, that all its edges leave.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from learned_opt.errors import InputError
from learned_opt.nowcast import wiring
from learned_opt.nowcast.wiring import Kind, Layout, Wire, Wiring

PyTree = Any
WEIGHTS = ("w", "kernel", "weight", "embeddings", "embedding")
FACTORS = ("scale", "gamma", "weight")
UNKNOWN = ("refuse", "unconnected")


class Draft:
    """Groups and wires so far, of parameters by their path."""

    def __init__(self, params: PyTree) -> None:
        self.params = params
        self.shapes = {name: jnp.shape(leaf) for name, leaf in wiring.named(params).items()}
        self.groups: dict[str, int] = {}
        self.wires: list[Wire] = []

    def modules(self) -> list[str]:
        """Paths of the modules, numbers in their order."""
        return sorted({name.rpartition("/")[0] for name in self.shapes}, key=natural)

    def leaves(self, module: str) -> list[str]:
        """Paths of the parameters of a module: factors, then the others.

        Raises:
          InputError: no such module.
        """
        found = [name for name in self.shapes if name.rpartition("/")[0] == module]
        if not found:
            raise InputError(f"no module {module!r} in the parameters: expected one of {', '.join(self.modules())}")
        return sorted(found, key=lambda name: name.rpartition("/")[2] not in FACTORS)

    def weight(self, module: str) -> str | None:
        """Path of the matrix or kernel of a module; None if it has only vectors."""
        found = (name for name in self.leaves(module) if name.rpartition("/")[2] in WEIGHTS)
        return next((name for name in found if len(self.shapes[name]) > 1), None)

    def vectors(self, modules: Iterable[str]) -> list[str]:
        """Paths of the other parameters of these modules."""
        return [name for module in modules for name in self.leaves(module) if name != self.weight(module)]

    def group(self, name: str, size: int) -> str:
        """A new group; or the known one of this name and size.

        Raises:
          InputError: it is known with another size.
        """
        if self.groups.setdefault(name, size) != size:
            raise InputError(f"{name!r} has {self.groups[name]} neurons, but {size} are wanted: check names and order")
        return name

    def wire(self, path: str, source: str, target: str, kind: int, layout: Layout) -> None:
        """A parameter, or a part of it, between two groups."""
        self.wires.append(Wire(path, (source,), (target,), kind, layout))

    def nodes(self, paths: Iterable[str], part: str = "") -> None:
        """The neurons of vectors, for their numbers; `vector` makes those that are not yet there."""
        for path in paths:
            self.group(path + part, 1)

    def vector(self, path: str, target: str, layout: Layout | None = None, part: str = "") -> None:
        """A bias, a factor or an offset of the neurons of a group."""
        self.nodes([path], part)
        shape = self.shapes[path]
        if layout is None and math.prod(shape) != self.groups[target]:
            raise InputError(
                f"parameter {path!r} of shape {shape}: expected a number for each of the {self.groups[target]} neurons "
                f"of {target!r}"
            )
        kind = Kind.NORM if path.rpartition("/")[2] in FACTORS else Kind.OTHER
        self.wire(path, path + part, target, kind, layout or Layout(" ".join("o" * len(shape))))

    def skip(self, source: str, target: str) -> None:
        """A connection that hands every neuron on."""
        self.wire("", source, target, Kind.SKIP, Layout("d", (self.groups[source],)))

    def heads(self, name: str, heads: int, target: str) -> None:
        """A neuron for every attention head, with edges to the neurons of that head."""
        self.group(name, heads)
        self.wire("", name, target, Kind.HEAD, Layout("d o", (heads, self.groups[target] // heads)))

    def done(self, unknown: str) -> Wiring:
        """The wiring, checked.

        Raises:
          InputError: parameters that are on no wire, unless `unknown` is "unconnected", which warns.
        """
        if unknown not in UNKNOWN:
            raise InputError(f"unknown is {unknown!r}: expected one of {', '.join(UNKNOWN)}")
        made = Wiring(tuple(self.groups.items()), tuple(self.wires))
        wired = {wire.path for wire in self.wires}
        rest = sorted((name for name in self.shapes if name not in wired), key=natural)
        if rest and unknown == "refuse":
            raise InputError(
                f"the wiring of {', '.join(rest)} is not known: name its modules, write its wires, or give "
                "unknown='unconnected'"
            )
        made = wiring.complete(made, self.params)
        wiring.check(made, self.params)
        return made


def natural(name: str) -> list[tuple[int, Any]]:
    """Key that sorts "linear", "linear_2", "linear_10" in this order."""
    pieces = re.split(r"(\d+)", name.replace("_", "\0"))
    return [(int(piece.isdigit()), int(piece) if piece.isdigit() else piece) for piece in pieces]


def stem(name: str) -> str:
    """The name without its numbers: modules of one stem are layers of one kind."""
    return re.sub(r"_?\d+", "", name)


def in_order(draft: Draft, modules: Sequence[str] | None) -> list[str]:
    """The modules as given; all of them where their numbers tell the order.

    Raises:
      InputError: none were given, and the names do not tell the order, or one was given as a string.
    """
    if isinstance(modules, str):
        raise InputError(f"modules is the string {modules!r}: expected a list of names of modules")
    if modules is not None:
        return list(modules)
    found = draft.modules()
    if len({stem(name) for name in found}) > 1:
        raise InputError(f"modules {', '.join(found)}: their names do not tell the order; give them in order")
    return found
