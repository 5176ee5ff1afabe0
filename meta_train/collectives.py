"""What crosses the network, read from a compiled program."""

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")

_BITS = re.compile(r"[a-z]+([0-9]+)")
_CALL = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"([a-z]+[0-9]*\w*)\[([0-9,]*)\]")
_WITH_OPERANDS = ("all-gather", "collective-permute")
"""Kinds whose asynchronous form returns a tuple of operands, results and contexts, which are u32[]."""
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")


class Collective(NamedTuple):
    """One collective operation."""

    kind: str
    """One of `KINDS`."""
    bytes: int
    """Of its result on one device."""
    in_loop: bool
    """Whether it is not in the main computation, so that it may run many times."""


def collectives(hlo: str) -> list[Collective]:
    """Those of a compiled program, of its text (`compiled.as_text()`)."""
    found, entry = [], False
    for line in hlo.splitlines():
        if _COMPUTATION.match(line):
            entry = line.startswith("ENTRY")
        call = _CALL.search(line)
        if call:
            arrays = _ARRAY.findall(call[1])
            if call[3] and call[2] in _WITH_OPERANDS:
                arrays = [array for array in arrays if array != ("u32", "")]
                arrays = arrays[len(arrays) // 2 :]
            found.append(Collective(call[2], sum(_size(*array) for array in arrays), not entry))
    return found


def _size(dtype: str, dimensions: str) -> int:
    """Bytes of an array such as f32[8,4]: dtypes are named by their bits, pred and those of less have a byte."""
    bits = _BITS.match(dtype)
    width = 1 if bits is None else max(1, int(bits[1]) // 8)
    return width * math.prod(int(n) for n in dimensions.split(",") if n)
