"""WNN+: a network that extrapolates every parameter by itself.

Knyazev et al.: "Accelerating Training with Neuron Interaction and Nowcasting Networks", ICLR 2025 (arXiv:2409.04434),
after the weight nowcaster network of Jang et al., ICML 2023; `nino_mlp` in the published code. For the c = 5 states x
of a parameter, in units of the deviation of its tensor after its mean is taken off, and the kind t of its edge:

    h_0 = W x + b + Emb_t
    h_1 = silu(A_1 h_0 + a_1),  h_2 = silu(A_2 h_1 + a_2),  h_3 = silu(A_3 h_2 + a_3)
    y_k = x_5 + scale (O_k h_3 + o_k)                          k = 1 … 40

The first two layers have no activation between them and are multiplied out. Of the wiring it reads the kinds.

Weights: 57,384 (5,160 with 32 units). Arithmetic: 33,000 products a parameter.
Fails: on recipes whose trajectories look other than those it was trained on; no horizon is checked against the loss.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from learned_opt.network import EXACT, Layer
from learned_opt.nowcast import base, blocks
from learned_opt.nowcast.base import Bundle
from learned_opt.nowcast.wiring import KINDS, Wiring
from learned_opt.rules.base import check_settings

PyTree = Any
HORIZONS = 40
DEVIATION = 0.02
"""Of weights before training; biases are 0."""


class Theta(NamedTuple):
    """Weights of the network, H units."""

    kinds: Array
    """Emb, shape [15, H]."""
    states: Layer
    """W, b: 5 -> H."""
    layers: tuple[Layer, ...]
    """A, a: three layers H -> H."""
    out: Layer
    """O, o: H -> 40, one output for each horizon."""


@dataclass(frozen=True)
class WNN:
    """The network with its settings; defaults are the published ones."""

    hidden: int = 128
    """H."""
    scale: float = 1.0
    """Factor on the predicted change."""
    edges: int = 1 << 14
    """Parameters in one part of the computation, about: memory against calls."""
    states: int = 5
    """c."""
    max_horizon: int = HORIZONS
    """Horizons that there are outputs for."""

    def __post_init__(self) -> None:
        check_settings(self, integers={"hidden": 1, "edges": 1, "states": 2, "max_horizon": 1}, finite=("scale",))

    def init(self, key: Array) -> Theta:
        """Weights before training."""
        keys = iter(jax.random.split(key, 6))
        normal = lambda *shape: DEVIATION * jax.random.normal(next(keys), shape, jnp.float32)
        layer = lambda inputs, outputs: Layer(normal(inputs, outputs), jnp.zeros(outputs, jnp.float32))
        h = self.hidden
        hidden = tuple(layer(h, h) for _ in range(3))
        return Theta(normal(KINDS, h), layer(self.states, h), hidden, layer(h, self.max_horizon))

    def predict(self, theta: Theta, history: tuple[PyTree, ...], k: Int[Array, "*horizons"], graph: Wiring) -> PyTree:
        """The parameters of horizon k; arguments as those of `learned_opt.nowcast.base.Network`."""

        # Edges that share a parameter would all say the same.
        wires = (wire._replace(layout=wire.layout._replace(repeat=None)) for wire in graph.wires if wire.path)
        found = base.bundles(history, graph._replace(wires=tuple(wires)))
        return base.assemble(history[-1], [(one, self._bundle(theta, one, k)) for one in found], jnp.shape(k))

    def _bundle(self, theta: Theta, bundle: Bundle, k: Int[Array, "*horizons"]) -> Float[Array, "..."]:
        """y of a bundle for horizons [*K] as [*K, d, i, o, p, f]."""
        parts = blocks.parts_of(bundle.block, max(self.edges // bundle.block.f, 1))
        kinds = theta.kinds[bundle.kinds]

        def body(numbers: blocks.Numbers, carry: Array) -> Array:
            kind = blocks.take(kinds, 0, parts.d, numbers[0])
            x = base.normalised(bundle, parts, numbers)
            return blocks.put(carry, self._extrapolate(theta, x, kind, k), numbers)

        start = blocks.empty(bundle.block, parts, jnp.shape(k))
        return blocks.joined(blocks.loop(parts, body, start), bundle.block)

    def _extrapolate(
        self, theta: Theta, x: Float[Array, "d i o p f c"], kind: Float[Array, "d H"], k: Int[Array, "*horizons"]
    ) -> Float[Array, "..."]:
        """y for horizons [*K] as [*K, d, i, o, p, f]."""
        dot = lambda x, w: jnp.tensordot(x, w, axes=1, precision=EXACT)
        first = theta.layers[0]
        b = dot(theta.states.b[None] + kind, first.w) + first.b[None]
        h = jnp.reshape(x, (x.shape[0], -1, x.shape[-1]))
        h = jax.nn.silu(dot(h, dot(theta.states.w, first.w)) + b[:, None])
        for w, b in theta.layers[1:]:
            h = jax.nn.silu(dot(h, w) + b[None, None])
        head = jnp.asarray(k) - 1
        delta = jnp.moveaxis(dot(h, jnp.take(theta.out.w, head, axis=1)), (0, 1), (-2, -1))
        delta = delta + theta.out.b[head][..., None, None]
        delta = jnp.reshape(delta, (*head.shape, *x.shape[:-1]))
        return x[..., -1][(None,) * head.ndim] + self.scale * delta
