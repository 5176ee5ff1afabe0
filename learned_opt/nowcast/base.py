"""What all networks share: the interface, the schedule of horizons, the scales of tensors, and wires in bundles."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from learned_opt.errors import InputError
from learned_opt.nowcast.blocks import Numbers, Parts, from_block, present, take, take_block, to_block
from learned_opt.nowcast.wiring import Block, Layout, Wire, Wiring, block_of, coverage, named, view_of

PyTree = Any
EPSILON = 1e-6
"""Added to the deviation of a tensor before dividing by it."""


@runtime_checkable
class Network(Protocol):
    """A predictor of parameters: a frozen dataclass of settings, without weights."""

    @property
    def states(self) -> int:
        """Past states that it reads, c."""
        ...

    @property
    def max_horizon(self) -> int | None:
        """The furthest horizon that it predicts, in spacings of the states; None: any."""
        ...

    def init(self, key: Array) -> Any:
        """Weights before training: a pytree of float32 arrays, or an empty tuple."""
        ...

    def predict(self, theta: Any, history: tuple[PyTree, ...], k: Int[Array, "*horizons"], graph: Wiring) -> PyTree:
        """Parameters k spacings after the last state, in float32.

        Args:
          theta: weights.
          history: c trees of parameters, the oldest first, at equal spacings.
          k: the horizon, from 1; or several, in one axis, which is then the first axis of every tensor of the result.
          graph: the wiring of the parameters; networks without a graph read its kinds, or nothing.
        """
        ...


def horizons(num_steps: int, period: int = 1000, *, first: int = 40, power: float = 2.0) -> tuple[int, ...]:
    """The published schedule: a horizon for each window of `period` steps, from `first` down to 1.

        k_i = round( linspace(first^(1/power), 1, K)_i ^ power ),   K = max(1, num_steps // period)

    Raises:
      InputError: a number below 1.
    """
    for name, value in (("num_steps", num_steps), ("period", period), ("first", first), ("power", power)):
        if not value >= 1:
            raise InputError(f"{name} is {value!r}: expected a number, at least 1")
    roots = np.linspace(first ** (1 / power), 1, max(1, num_steps // period))
    return tuple(int(k) for k in np.round(roots**power))


def scales(history: tuple[PyTree, ...]) -> PyTree:
    """Of every tensor over its entries in all states: mean, unbiased deviation, and 1 if its states differ, or 0."""
    return jax.tree.map(_scale, *history)


def _scale(*states: Array) -> Float[Array, "3"]:
    n = len(states) * states[0].size
    if n == 0:
        return jnp.zeros(3)
    # Deviations from an entry: sums of large numbers lose the digits of small differences.
    origin = jnp.ravel(states[-1])[0].astype(jnp.float32)
    mean = _total(lambda x: x - origin, states) / n
    square = _total(lambda x: ((x - origin) - mean) ** 2, states)
    moved = jnp.any(jnp.stack([jnp.any(x != states[-1]) for x in states]))
    return jnp.stack([origin + mean, jnp.sqrt(square / max(n - 1, 1)), moved.astype(jnp.float32)])


def _total(of: Callable[[Array], Array], states: tuple[Array, ...]) -> Array:
    """Sum of `of` over all entries; one state after another, so that temporaries are of one."""
    total = jnp.float32(0.0)
    for x in states:
        x, total = jax.lax.optimization_barrier((x, total))
        total = total + jnp.sum(of(x.astype(jnp.float32)))
    return total


class Bundle(NamedTuple):
    """Wires of one layout and parameters of one shape, one after another along d: as one, they are compiled once."""

    wires: tuple[Wire, ...]
    shape: tuple[int, ...]
    """Of each parameter."""
    block: Block
    """Of all wires together."""
    states: tuple[Array, ...]
    """c blocks of parameters as they are, without axes of length 1; none for edges without parameters.

    XLA would copy blocks with those axes before every loop.
    """
    scale: Array
    """The `scales` of the tensors, shape [d, 3]."""
    kinds: np.ndarray
    """Kind of each d."""


def bundles(history: tuple[PyTree, ...], graph: Wiring) -> list[Bundle]:
    """The wires of a model as bundles; those without edges are left out."""
    states, found = [named(one) for one in history], dict[tuple[Any, ...], list[Wire]]()
    for wire in graph.wires:
        key = (states[-1][wire.path].dtype, states[-1][wire.path].shape) if wire.path else (None, ())
        if min(block_of(wire.layout, key[1])) > 0:
            found.setdefault((*key, wire.layout), []).append(wire)
    made = []
    for (dtype, shape, layout), wires in found.items():
        block = block_of(layout, shape)
        whole = block._replace(d=block.d * len(wires))
        own, scale = (), jnp.zeros((len(wires), 3))
        if dtype is not None:
            tensors = [jnp.stack([one[wire.path] for wire in wires]) for one in states]
            scale = jax.vmap(_scale)(*tensors)
            long = [n for n in whole if n > 1]
            own = tuple(jnp.reshape(jax.vmap(partial(to_block, layout))(x), long) for x in tensors)
        kinds = np.repeat([int(wire.kind) for wire in wires], block.d)
        made.append(Bundle(tuple(wires), shape, whole, own, jnp.repeat(scale, block.d, axis=0), kinds))
    return made


def assemble(params: PyTree, parts: Sequence[tuple[Bundle, Array]], lead: tuple[int, ...]) -> PyTree:
    """Parameters from what a network says of bundles.

    Args:
      params: a tree like the result.
      parts: bundles with parameters, each with its entries [*lead, d, i, o, p, f] in units of the deviation.
      lead: first axes of the result.

    Returns:
      A tree like the parameters, in float32. Entries that are on several wires are means of what these say; a tensor
      whose states are all equal stays as it is.
    """
    shapes = {name: jnp.shape(leaf) for name, leaf in named(params).items()}
    total, counts, layouts = dict[str, Array](), dict[str, np.ndarray](), dict[str, Layout]()
    for bundle, y in parts:
        mean, deviation, moved = (jnp.reshape(x, (*(1,) * len(lead), -1, 1, 1, 1, 1)) for x in bundle.scale.T)
        last = jnp.reshape(bundle.states[-1], bundle.block).astype(jnp.float32)[(None,) * len(lead)]
        y = jnp.where((moved > 0.0) & (deviation > 0.0), y * deviation + mean, last)
        layout, shape = bundle.wires[0].layout, bundle.shape
        y = jnp.reshape(y, (*lead, len(bundle.wires), -1, *bundle.block[1:]))
        back = jax.vmap(partial(from_block, layout, shape))
        for _ in lead:
            back = jax.vmap(back)
        tensors = back(y)
        for number, wire in enumerate(bundle.wires):
            own = jax.lax.index_in_dim(tensors, number, len(lead), keepdims=False)
            total[wire.path] = own + total[wire.path] if wire.path in total else own
            counts[wire.path] = coverage(layout, shape) + counts.get(wire.path, 0.0)
            layouts[wire.path] = layout

    def tensor(name: str) -> Array:
        if name not in total:  # without entries
            return jnp.zeros((*lead, *shapes[name]))
        y = total[name]
        if not (counts[name] == 1).all():
            seen = jnp.reshape(y, (*lead, *view_of(layouts[name], shapes[name])))
            y = jnp.reshape(seen / counts[name][(None,) * len(lead)], y.shape)
        return y

    return jax.tree.structure(params).unflatten([tensor(name) for name in shapes])


def normalised(bundle: Bundle, parts: Parts, numbers: Numbers) -> Float[Array, "d i o p f c"]:
    """One part of the states in units of the deviation of their tensor, which are on the last axis."""
    own = [take_block(jnp.reshape(x, bundle.block), parts, numbers) for x in bundle.states]
    scale = take(bundle.scale, 0, parts.d, numbers[0])
    mean, deviation = (jnp.reshape(x, (-1, 1, 1, 1, 1, 1)) for x in (scale[:, 0], scale[:, 1]))
    x = (jnp.stack(own, -1).astype(jnp.float32) - mean) / (deviation + EPSILON)
    there = present(bundle.wires[0].layout, bundle.shape)
    # What is no entry is at the mean, whatever that is.
    return x if there.all() else x * take(jnp.asarray(there), 0, parts.p, numbers[3])[None, None, None, :, :, None]
