"""Parameters as dense blocks of edges, and loops over parts of a block.

A block has the axes [d, i, o, p, f] of `learned_opt.nowcast.wiring`: means over incoming edges are means over i and p,
without a list of edges. Loops run over parts of it: an axis of length A k is seen as [A, k] and cut along k, so
a tensor that is sharded along that axis is cut within its shards, where A is a multiple of their number.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from learned_opt.nowcast.wiring import FEATURES, LETTERS, Block, Layout, block_of, letters, view_of

Numbers = tuple[Any, Any, Any, Any]
"""Which part, along d, i, o and p."""


class Parts(NamedTuple):
    """How many parts each of the axes d, i, o and p is cut into."""

    d: int
    i: int
    o: int
    p: int


def to_block(layout: Layout, x: Float[Array, "*shape"]) -> Float[Array, "d i o p f"]:
    """The entries of a parameter as its wire has them; shared ones several times, zeros where none is `present`."""
    view, axes = view_of(layout, x.shape), letters(layout)
    repeat = layout.repeat or (1,) * len(view)
    x = jnp.reshape(x, view)[tuple(int(a) if a.isdigit() else slice(None) for a in axes)]
    kept = [(a, n * r) for a, n, r in zip(axes, view, repeat, strict=True) if not a.isdigit()]
    x = jnp.broadcast_to(x, [n for _, n in kept])
    order = [axis for letter in LETTERS for axis, (a, _) in enumerate(kept) if a == letter]
    *lead, features = (math.prod(n for a, n in kept if a == letter) for letter in LETTERS)
    x = jnp.reshape(jnp.transpose(x, order), (*lead, features))
    split = -(-features // FEATURES)
    if split > 1:
        x = jnp.pad(x, [(0, 0)] * 4 + [(0, split * FEATURES - features)])
        x = jnp.reshape(x, (*lead[:-1], lead[-1] * split, FEATURES))
    return x


def present(layout: Layout, shape: tuple[int, ...]) -> Bool[np.ndarray, "p f"]:
    """Which features of the edges of a block are entries of the parameter."""
    view = view_of(layout, shape)
    features = math.prod(n for a, n in zip(letters(layout), view, strict=True) if a == "f")
    block = block_of(layout, shape)
    split = np.arange(-(-features // FEATURES) * block.f).reshape(-1, block.f) < features
    return np.tile(split, (block.p // len(split), 1))


def from_block(layout: Layout, shape: tuple[int, ...], y: Float[Array, "d i o p f"]) -> Float[Array, "*shape"]:
    """The way back: entries that edges share are means, entries that are not on the wire zero."""
    whole = jax.ShapeDtypeStruct(shape, y.dtype)
    (x,) = jax.linear_transpose(lambda x: to_block(layout, x), whole)(y)
    return x / math.prod(layout.repeat or (1,))


def parts_of(block: Block, edges: int) -> Parts:
    """Parts of about so many edges, at most; their sizes are divisors of those of the block."""
    o = _divisor(block.o, edges)
    i = _divisor(block.i, edges // o)
    p = _divisor(block.p, edges // (o * i))
    d = _divisor(block.d, edges // (o * i * p))
    return Parts(block.d // d, block.i // i, block.o // o, block.p // p)


def part_of(block: Block, parts: Parts) -> Block:
    """Sizes of one part."""
    return Block(*(n // count for n, count in zip(block, (*parts, 1), strict=True)))


def _divisor(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`, at least 1."""
    return max(a for k in range(1, math.isqrt(n) + 1) if n % k == 0 for a in (k, n // k) if a <= max(most, 1))


def loop(parts: Parts, body: Callable[[Numbers, Any], Any], start: Any) -> Any:
    """`body((d, i, o, p), carry) -> carry` over the numbers of all parts."""
    count = math.prod(parts)
    if count == 1:
        return body((0, 0, 0, 0), start)

    def step(n: Array, carry: Any) -> Any:
        numbers = []
        for size in reversed(parts):
            numbers, n = [n % size, *numbers], n // size
        return body((numbers[0], numbers[1], numbers[2], numbers[3]), carry)

    return jax.lax.fori_loop(0, count, step, start)


def take(x: Array, axis: int, parts: int, number: int | Int[Array, ""]) -> Array:
    """One part of x along an axis."""
    if parts == 1:
        return x
    cut = jnp.reshape(x, (*x.shape[:axis], x.shape[axis] // parts, parts, *x.shape[axis + 1 :]))
    return jax.lax.dynamic_index_in_dim(cut, number, axis + 1, keepdims=False)


def take_block(x: Float[Array, "d i o p f"], parts: Parts, numbers: Numbers) -> Float[Array, "a b c e f"]:
    """One part of a block."""
    for axis, (count, number) in enumerate(zip(parts, numbers, strict=True)):
        x = take(x, axis, count, number)
    return x


def total(x: Array, axis: int) -> Array:
    """Sum along an axis, by halves: a reduction along an axis that is not the last is ten times as slow on a CPU."""
    cut = lambda start, stop: jax.lax.slice_in_dim(x, start, stop, axis=axis)
    rest = None
    while (n := x.shape[axis]) > 1:
        if n % 2:
            rest = cut(n - 1, n) if rest is None else rest + cut(n - 1, n)
        x = cut(0, n // 2) + cut(n // 2, n // 2 * 2)
    return jnp.squeeze(x if rest is None else x + rest, axis)


def empty(block: Block, parts: Parts, lead: tuple[int, ...] = ()) -> Float[Array, "*cut"]:
    """Zeros for a block in its cut form, for `put`; `lead` are axes before those of the block."""
    cut = [n for size, count in zip(block, parts, strict=False) for n in (size // count, count)]
    return jnp.zeros((*lead, *cut, block.f), jnp.float32)


def put(whole: Float[Array, "*cut"], y: Float[Array, "*part"], numbers: Numbers) -> Float[Array, "*cut"]:
    """Write one part into the cut form."""
    lead = y.ndim - 5
    y = jnp.expand_dims(y, [lead + axis for axis in (1, 3, 5, 7)])
    start = [n for number in numbers for n in (0, number)]
    return jax.lax.dynamic_update_slice(whole, y, (*(0,) * lead, *start, 0))


def joined(whole: Float[Array, "*cut"], block: Block) -> Float[Array, "*lead d i o p f"]:
    """The block out of its cut form."""
    return jnp.reshape(whole, (*whole.shape[:-9], *block))
