"""What crosses the network, read from a compiled program."""

import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s64": 8, "u64": 8, "f64": 8}
_FOUR = 4
_CALL = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\]")
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
            found.append(Collective(call[2], _size(call[1]), not entry))
    return found


def _size(shape: str) -> int:
    """Bytes of a shape such as f32[8,4]{1,0}, or of a tuple of them."""
    total = 0
    for dtype, dimensions in _ARRAY.findall(shape):
        count = 1
        for n in filter(None, dimensions.split(",")):
            count *= int(n)
        total += count * _BYTES.get(dtype, _FOUR)
    return total
