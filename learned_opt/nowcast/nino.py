"""NiNo: a graph network over the neurons of a model that extrapolates its parameters.

Knyazev et al.: "Accelerating Training with Neuron Interaction and Nowcasting Networks", ICLR 2025 (arXiv:2409.04434);
`nino_no_posw` in the published code. Neurons v, edges e from neuron s to t, with the features a_e of the edge: its
parameters at 5 states, in units of the deviation of their tensor after its mean is taken off, at most 9 for a kernel.
Edges without parameters have 1 throughout; every neuron has an edge to itself with 2.

    x = N pos + n                  e = W a_e + w + Emb_kind
    for l = 1, 2:
      m   = scale_e * (P [x_t; x_s] + p) + shift_e,   [scale_e; shift_e] = G e + g
      x_v <- silu(L (Q [x_v; mean of m over edges into v] + q) + l)
      e   <- U silu(E e + S x_s + T x_t + bias) + u
    y_k = a_5 + scale (O_k silu(V e + v) + o_k)                                      for every feature of a parameter

`pos`, eigenvectors of the graph, moves the published network's predictions by less than 1 % and is 0 by default. The
third message-passing layer of the published file does nothing that the result depends on, and is left out.

No edge state outlives a part of the loop: e is linear in the hidden layer s = silu(…) of its update, so products of
matrices that follow each other are multiplied out, and s is computed again from a in every pass. Memory: a part of the
edges, and 5 floats a neuron and unit. Arithmetic: 50,000 products a parameter.

Weights: 434,664. Fails: as WNN+; and where the wiring leaves symmetries out or invents some.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from learned_opt.network import EXACT, Layer
from learned_opt.nowcast import base, blocks, linear, neurons
from learned_opt.nowcast.base import Bundle
from learned_opt.nowcast.blocks import Numbers, Parts
from learned_opt.nowcast.neurons import Ends
from learned_opt.nowcast.wiring import FEATURES, KINDS, Kind, Layout, Wire, Wiring
from learned_opt.nowcast.wnn import DEVIATION, HORIZONS
from learned_opt.rules.base import check_settings

PyTree = Any
POSITIONS = 8
"""Numbers that describe the place of a neuron."""
SKIPPED, SELF = 1.0, 2.0
"""What edges without parameters carry, and those of a neuron to itself."""


class Convolution(NamedTuple):
    """Weights of one message-passing layer."""

    edge: Layer
    """G, g: H -> 2 H."""
    before: Layer
    """P, p: 2 H -> H, of target and source."""
    after: Layer
    """Q, q: 2 H -> H."""
    out: Layer
    """L, l: H -> H."""


class Update(NamedTuple):
    """Weights of one update of the edges, all H -> H."""

    edge: Layer
    """E."""
    source: Layer
    """S."""
    target: Layer
    """T."""
    out: Layer
    """U, u."""


class Theta(NamedTuple):
    """Weights of the network."""

    kinds: Array
    """Emb, shape [15, H]."""
    nodes: Layer
    """N, n: 8 -> H."""
    states: Layer
    """W, w: 9 x 5 -> H, the states of a feature next to each other."""
    convolutions: tuple[Convolution, ...]
    updates: tuple[Update, ...]
    hidden: Layer
    """V, v: H -> H."""
    out: Layer
    """O, o: H -> 9 x 40, the horizons of a feature next to each other."""


@dataclass(frozen=True)
class NiNo:
    """The network with its settings; defaults are the published ones."""

    hidden: int = 128
    """H."""
    layers: int = 2
    """Message-passing layers."""
    scale: float = 1.0
    """Factor on the predicted change."""
    edges: int = 1 << 13
    """Edges in one part of the computation, about: memory against calls."""
    states: int = 5
    """c."""
    max_horizon: int = HORIZONS
    """Horizons that there are outputs for."""

    def __post_init__(self) -> None:
        check_settings(
            self, integers={"hidden": 1, "layers": 1, "edges": 1, "states": 2, "max_horizon": 1}, finite=("scale",)
        )

    def init(self, key: Array) -> Theta:
        """Weights before training."""
        keys = iter(jax.random.split(key, 5 + 8 * self.layers))
        normal = lambda *shape: DEVIATION * jax.random.normal(next(keys), shape, jnp.float32)
        layer = lambda inputs, outputs: Layer(normal(inputs, outputs), jnp.zeros(outputs, jnp.float32))
        h = self.hidden
        return Theta(
            normal(KINDS, h),
            layer(POSITIONS, h),
            layer(FEATURES * self.states, h),
            tuple(
                Convolution(layer(h, 2 * h), layer(2 * h, h), layer(2 * h, h), layer(h, h)) for _ in range(self.layers)
            ),
            tuple(Update(*(layer(h, h) for _ in range(4))) for _ in range(self.layers)),
            layer(h, h),
            layer(h, FEATURES * self.max_horizon),
        )

    def predict(
        self,
        theta: Theta,
        history: tuple[PyTree, ...],
        k: Int[Array, "*horizons"],
        graph: Wiring,
        pos: Mapping[str, Float[Array, "neurons 8"]] | None = None,
    ) -> PyTree:
        """The parameters of horizon k; arguments as those of `learned_opt.nowcast.base.Network`.

        `pos` has the places of the neurons of every group; 0 by default.
        """
        count = sum(n for _, n in graph.groups)
        places = [jnp.zeros((count, POSITIONS))] if pos is None else [pos[name] for name, _ in graph.groups]
        x = linear.apply(theta.nodes, jnp.concatenate(places))
        itself = (Wire("", (name,), (name,), Kind.SELF, Layout("d", (n,))) for name, n in graph.groups)
        bundles = base.bundles(history, graph._replace(wires=(*graph.wires, *itself)))
        passed: list[list[Ends]] = [[] for _ in bundles]
        for l, (layer, update) in enumerate(zip(theta.convolutions, theta.updates, strict=True)):
            target, source = (linear.apply(half, x) for half in linear.by_input(layer.before))
            messages = []
            for bundle, own in zip(bundles, passed, strict=True):
                before = neurons.ends(bundle, graph, source, target)
                messages.append((bundle, self._messages(theta, l, bundle, own, before)))
            mean = neurons.means(graph, messages)
            x = jax.nn.silu(linear.apply(layer.out, linear.apply(layer.after, jnp.concatenate([x, mean], -1))))
            source, target = linear.apply(update.source, x), linear.apply(update.target, x)
            for bundle, own in zip(bundles, passed, strict=True):
                own.append(neurons.ends(bundle, graph, source, target))
        known = [(bundle, own) for bundle, own in zip(bundles, passed, strict=True) if bundle.states]
        said = [(bundle, self._outputs(theta, bundle, own, k)) for bundle, own in known]
        return base.assemble(history[-1], said, jnp.shape(k))

    def _messages(
        self, theta: Theta, l: int, bundle: Bundle, passed: list[Ends], before: Ends
    ) -> Float[Array, "d o H"]:
        """Sums over the edges into every target neuron of a bundle, of the messages of layer l."""
        block, parts = bundle.block, blocks.parts_of(bundle.block, self.edges)
        part = blocks.part_of(block, parts)
        edge = linear.then(_edge(theta, l, bundle), theta.convolutions[l].edge)

        def body(numbers: Numbers, carry: Array) -> Array:
            s = _hidden(theta, l, bundle, passed, parts, numbers)
            d, _, o, _ = numbers
            source, target = _ends(before, parts, numbers)
            scale, shift = linear.by_output(_bias(edge, parts, d))
            over = lambda x: blocks.total(blocks.total(x, 3), 1)
            m = over(linear.apply(scale, s) * source[:, :, None, None, :])
            # The rest of a message is linear in s for all edges into a neuron.
            sums, count = over(s), part.i * part.p
            m += linear.apply(linear.summed(scale, count), sums) * target
            m += linear.apply(linear.summed(shift, count), sums)
            start = (0, d, 0, o, 0)
            m = jnp.expand_dims(m, (1, 3))
            m += jax.lax.dynamic_slice(carry, start, m.shape)
            return jax.lax.dynamic_update_slice(carry, m, start)

        start = jnp.zeros((part.d, parts.d, part.o, parts.o, self.hidden))
        return jnp.reshape(blocks.loop(parts, body, start), (block.d, block.o, self.hidden))

    def _outputs(
        self, theta: Theta, bundle: Bundle, ends: list[Ends], k: Int[Array, "*horizons"]
    ) -> Float[Array, "..."]:
        """y of a bundle for horizons [*K] as [*K, d, i, o, p, f]."""
        block, parts = bundle.block, blocks.parts_of(bundle.block, self.edges)
        layer = linear.then(_edge(theta, self.layers, bundle), theta.hidden)
        heads = (None,) * jnp.ndim(k)
        rows = (jnp.arange(block.f) * self.max_horizon)[heads] + (jnp.asarray(k) - 1)[..., None]
        w, b = jnp.take(theta.out.w, rows, axis=1), jnp.take(theta.out.b, rows)

        def body(numbers: Numbers, carry: Array) -> Array:
            s = _hidden(theta, self.layers, bundle, ends, parts, numbers)
            hidden = jax.nn.silu(linear.apply(_bias(layer, parts, numbers[0]), s))
            delta = jnp.tensordot(hidden, w, axes=1, precision=EXACT) + b[(None,) * 4]
            delta = jnp.moveaxis(delta, range(4, 4 + len(heads)), range(len(heads)))
            a = base.normalised(bundle._replace(states=bundle.states[-1:]), parts, numbers)[..., 0]
            return blocks.put(carry, a[heads] + self.scale * delta, numbers)

        return blocks.joined(blocks.loop(parts, body, blocks.empty(block, parts, jnp.shape(k))), block)


def _hidden(
    theta: Theta, l: int, bundle: Bundle, ends: list[Ends], parts: Parts, numbers: Numbers
) -> Float[Array, "d i o p Z"]:
    """s of layer l for one part of a bundle, from which e is linear by `_edge`; for l = 0 the features themselves."""
    d = numbers[0]
    if bundle.states:
        a = base.normalised(bundle, parts, numbers)
        s = jnp.reshape(a, (*a.shape[:4], -1))
    else:
        value = jnp.where(jnp.asarray(bundle.kinds == Kind.SELF), SELF, SKIPPED)
        value = jnp.reshape(blocks.take(value, 0, parts.d, d), (-1, 1, 1, 1, 1))
        shape = blocks.part_of(bundle.block, parts)[:4]
        s = jnp.broadcast_to(value, (*shape, theta.states.w.shape[0] // FEATURES))
    for m, (both, update) in enumerate(zip(ends[:l], theta.updates, strict=False)):
        source, target = _ends(both, parts, numbers)
        u = linear.apply(_bias(linear.then(_edge(theta, m, bundle), update.edge), parts, d), s)
        s = jax.nn.silu(u + source[:, :, None, None, :] + target[:, None, :, None, :])
    return s


def _edge(theta: Theta, l: int, bundle: Bundle) -> Layer:
    """e of layer l as a linear function of s, with a bias for each d."""
    if l:
        w, b = theta.updates[l - 1].out
        return Layer(w, jnp.broadcast_to(b, (bundle.block.d, b.shape[0])))
    inputs = bundle.block.f * (theta.states.w.shape[0] // FEATURES)
    return Layer(theta.states.w[:inputs], theta.states.b[None] + theta.kinds[bundle.kinds])


def _bias(layer: Layer, parts: Parts, d: Any) -> Layer:
    """The layer with the biases of one part."""
    return Layer(layer.w, blocks.take(layer.b, 0, parts.d, d))


def _ends(whole: Ends, parts: Parts, numbers: Numbers) -> Ends:
    """The ends of the edges of one part."""
    d, i, o, _ = numbers
    cut = lambda x, count, number: blocks.take(blocks.take(x, 0, parts.d, d), 1, count, number)
    return Ends(cut(whole.source, parts.i, i), cut(whole.target, parts.o, o))
