"""The networks in plain form, edge by edge in float64, and what tests of predictions share."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import nowcast
from learned_opt.nowcast import wiring
from learned_opt.nowcast.wiring import FEATURES, Wiring

NETWORK = nowcast.NiNo(hidden=6, edges=64, scale=0.7)


def weights(network: Any) -> Any:
    """Weights large enough that every part of the network counts."""
    rng = np.random.default_rng(5)
    start = jax.eval_shape(network.init, jax.random.key(0))
    return jax.tree.map(lambda x: 0.4 * rng.normal(size=x.shape).astype(np.float32), start)


def history(shapes: dict[str, tuple[int, ...]], seed: int = 1) -> tuple[dict[str, np.ndarray], ...]:
    """Five random states, those of each tensor of a scale of its own; of some, what is added to a deviation counts."""
    rng = np.random.default_rng(seed)
    scale = {name: 10.0 ** rng.uniform(-5.0, 0.5) for name in shapes}
    tensor = lambda name: np.asarray(scale[name] * (rng.normal(size=shapes[name]) + 0.5), np.float32)
    return tuple({name: tensor(name) for name in shapes} for _ in range(5))


@functools.cache
def predictor(network: Any, graph: Wiring) -> Any:
    """The compiled prediction, the same one for all tests of this network and graph."""
    return jax.jit(lambda theta, states, k, **options: network.predict(theta, states, k, graph, **options))


def predict(states: Any, graph: Wiring, network: Any = NETWORK, theta: Any = None, k: Any = 7, **options: Any) -> Any:
    theta = weights(network) if theta is None else theta
    return predictor(network, graph)(theta, states, jnp.asarray(k), **options)


def assert_close(a: Any, b: Any, tolerance: float = 2e-4) -> None:
    """Within so many times the largest entry of each tensor."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0.0, atol=tolerance * np.max(np.abs(y)))


class Edges(NamedTuple):
    """A graph as a list of edges."""

    source: np.ndarray
    target: np.ndarray
    kind: np.ndarray
    entries: list[dict[int, tuple[str, int]]]
    """Of each edge: feature -> parameter and number of its entry."""


def edges_of(graph: Wiring, shapes: dict[str, tuple[int, ...]]) -> Edges:
    """Every edge of a wiring, as the letters of its layouts say, without those of neurons to themselves."""
    numbers, count = {}, 0
    for name, n in graph.groups:
        numbers[name] = list(range(count, count + n))
        count += n
    found: list[tuple[int, int, int, dict[int, tuple[str, int]]]] = []
    for wire in graph.wires:
        axes, view = wire.layout.axes.split(), wire.layout.view or shapes[wire.path]
        full = [n * r for n, r in zip(view, wire.layout.repeat or [1] * len(view), strict=True)]
        ends = [[n for name in names for n in numbers[name]] for names in (wire.source, wire.target)]

        def place(letter: str, index: Any, axes: Any = axes, full: Any = full) -> tuple[int, int]:
            at, size = 0, 1
            for a, n, length in zip(axes, index, full, strict=True):
                at, size = (at * length + n, size * length) if a == letter else (at, size)
            return at, size

        own: dict[Any, tuple[int, int, int, dict[int, tuple[str, int]]]] = {}
        for index in np.ndindex(*full):
            if any(a.isdigit() and int(a) != n for a, n in zip(axes, index, strict=True)):
                continue
            (d, _), (i, inputs), (o, outputs), (p, _), (f, _) = (place(letter, index) for letter in "diopf")
            edge = ends[0][d * inputs + i], ends[1][d * outputs + o], int(wire.kind), {}
            entry = [n if size > 1 else 0 for n, size in zip(index, view, strict=True)]
            features = own.setdefault((d, i, o, p, f // FEATURES), edge)[3]
            if wire.path:
                flat = sum(n * int(np.prod(view[at + 1 :], dtype=int)) for at, n in enumerate(entry))
                features[f % FEATURES] = wire.path, flat
        found += own.values()
    source, target, kind, entries = zip(*found, strict=True)
    return Edges(np.array(source), np.array(target), np.array(kind), list(entries))


def plain(network: Any, theta: Any, states: Any, k: int, graph: Wiring, pos: Any = None) -> dict[str, np.ndarray]:
    """The prediction as the equations of the paper have it."""
    theta = jax.tree.map(lambda x: np.asarray(x, np.float64), theta)
    tensors = [{name: np.asarray(x, np.float64) for name, x in wiring.named(state).items()} for state in states]
    scale = {}
    for name in tensors[0]:
        numbers = np.stack([state[name] for state in tensors])
        scale[name] = numbers.mean(), numbers.std(ddof=1)
    own = edges_of(graph, {name: x.shape for name, x in tensors[0].items()})
    a = np.zeros((len(own.entries), FEATURES, len(states)))
    for e, entries in enumerate(own.entries):
        for f, (name, entry) in entries.items():
            mean, deviation = scale[name]
            a[e, f] = [(state[name].flat[entry] - mean) / (deviation + 1e-6) for state in tensors]
        if not entries:
            a[e, 0] = 1.0
    delta = (_wnn if isinstance(network, nowcast.WNN) else _nino)(network, theta, a, own, k, graph, pos)
    total = {name: np.zeros(x.size) for name, x in tensors[0].items()}
    times = {name: np.zeros(x.size) for name, x in tensors[0].items()}
    for e, entries in enumerate(own.entries):
        for f, (name, entry) in entries.items():
            mean, deviation = scale[name]
            total[name][entry] += (a[e, f, -1] + network.scale * delta[e, f]) * deviation + mean
            times[name][entry] += 1
    return {name: (total[name] / times[name]).reshape(x.shape) for name, x in tensors[0].items()}


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def _wnn(network: Any, theta: Any, a: np.ndarray, own: Edges, k: int, graph: Wiring, pos: Any) -> np.ndarray:
    del network, graph, pos
    h = a @ theta.states.w + theta.states.b + theta.kinds[own.kind][:, None]
    for layer in theta.layers:
        h = _silu(h @ layer.w + layer.b)
    return h @ theta.out.w[:, k - 1] + theta.out.b[k - 1]


def _nino(network: Any, theta: Any, a: np.ndarray, own: Edges, k: int, graph: Wiring, pos: Any) -> np.ndarray:
    linear = lambda layer, x: x @ layer.w + layer.b
    count, edges = sum(n for _, n in graph.groups), len(a)
    itself = np.arange(count)
    loops = np.zeros((count, *a.shape[1:]))
    loops[:, 0] = 2.0
    source, target = np.concatenate([own.source, itself]), np.concatenate([own.target, itself])
    kind = np.concatenate([own.kind, np.full(count, 13)])
    e = linear(theta.states, np.concatenate([a, loops]).reshape(len(kind), -1)) + theta.kinds[kind]
    places = np.zeros((count, 8)) if pos is None else np.concatenate([pos[name] for name, _ in graph.groups])
    x = linear(theta.nodes, places)
    for layer, update in zip(theta.convolutions, theta.updates, strict=True):
        scale, shift = np.split(linear(layer.edge, e), 2, axis=1)
        message = scale * linear(layer.before, np.concatenate([x[target], x[source]], 1)) + shift
        total = np.zeros_like(x)
        np.add.at(total, target, message)
        mean = total / np.bincount(target, minlength=count)[:, None]
        x = _silu(linear(layer.out, linear(layer.after, np.concatenate([x, mean], 1))))
        ends = linear(update.source, x[source]) + linear(update.target, x[target])
        e = linear(update.out, _silu(linear(update.edge, e) + ends))
    h = _silu(linear(theta.hidden, e[:edges]))
    columns = np.arange(FEATURES) * network.max_horizon + k - 1
    return h @ theta.out.w[:, columns] + theta.out.b[columns]
