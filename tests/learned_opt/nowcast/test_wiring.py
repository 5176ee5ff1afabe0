"""Builders of wirings, the symmetries that they leave to the graph network, and odd shapes."""

import functools
from typing import Any

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import nowcast
from learned_opt.errors import InputError
from learned_opt.nowcast import blocks, wiring
from learned_opt.nowcast.wiring import Kind, Layout, Wire, Wiring

pytestmark = pytest.mark.quick_compilation
NETWORK = nowcast.NiNo(hidden=6, edges=64)


@functools.cache
def theta() -> Any:
    """Weights large enough that every part of the network counts."""
    keys = iter(jax.random.split(jax.random.key(5), 100))
    return jax.tree.map(lambda x: 0.4 * jax.random.normal(next(keys), x.shape), NETWORK.init(jax.random.key(0)))


def history(shapes: dict[str, tuple[int, ...]], seed: int = 1) -> tuple[dict[str, Any], ...]:
    keys = iter(jax.random.split(jax.random.key(seed), 5 * len(shapes)))
    return tuple({name: jax.random.normal(next(keys), shape) for name, shape in shapes.items()} for _ in range(5))


def predict(states: Any, graph: Wiring, network: Any = NETWORK, weights: Any = None) -> Any:
    weights = theta() if weights is None else weights
    return jax.jit(lambda w, h: network.predict(w, h, jnp.asarray(7), graph))(weights, states)


def assert_close(a: Any, b: Any, tolerance: float = 2e-4) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


MLP = {"linear/w": (3, 5), "linear/b": (5,), "linear_1/w": (5, 2), "linear_1/b": (2,)}


def test_permuted_neurons_give_permuted_predictions() -> None:
    """And it is a graph: a permutation that the wiring does not know of changes more than the order."""
    graph, states = nowcast.mlp({k: jnp.zeros(v) for k, v in MLP.items()}), history(MLP)
    order = jnp.array([3, 0, 4, 1, 2])

    def permuted(tree: Any) -> Any:
        return tree | {
            "linear/w": tree["linear/w"][:, order],
            "linear/b": tree["linear/b"][order],
            "linear_1/w": tree["linear_1/w"][order],
        }

    found = predict(states, graph)
    assert_close(predict(tuple(map(permuted, states)), graph), permuted(found))
    half = tuple(tree | {"linear_1/w": tree["linear_1/w"][order]} for tree in states)
    other = predict(half, graph)["linear_1/w"] - found["linear_1/w"][order]
    assert np.max(np.abs(other)) > 1e-3


def test_rescaled_tensors_give_rescaled_predictions() -> None:
    """Each tensor by its own factor and offset."""
    graph, states = nowcast.mlp({k: jnp.zeros(v) for k, v in MLP.items()}), history(MLP)
    scales = {"linear/w": (3.0, 0.5), "linear/b": (0.1, -2.0), "linear_1/w": (10.0, 1.0), "linear_1/b": (0.5, 0.0)}
    affine = lambda tree: {name: scales[name][0] * x + scales[name][1] for name, x in tree.items()}
    assert_close(predict(tuple(map(affine, states)), graph), affine(predict(states, graph)), 1e-3)


def test_parts_do_not_matter() -> None:
    """In one part or in many, all horizons at once or one."""
    graph, states = nowcast.mlp({k: jnp.zeros(v) for k, v in MLP.items()}), history(MLP)
    assert_close(predict(states, graph), predict(states, graph, nowcast.NiNo(hidden=6, edges=3)), 1e-5)
    many = jax.jit(lambda h: NETWORK.predict(theta(), h, jnp.array([1, 7]), graph))(states)
    assert_close(jax.tree.map(lambda x: x[1], many), predict(states, graph), 1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_permuted_heads_and_dimensions(kv_heads: int) -> None:
    """Groups of heads, the heads within a group, and the dimensions within all heads of a group may be permuted."""
    d, heads, size = 4, 4, 3
    shapes = {
        "embed": (5, d),
        "layers/0/attn/q_proj/kernel": (d, heads * size),
        "layers/0/attn/k_proj/kernel": (d, kv_heads * size),
        "layers/0/attn/v_proj/kernel": (d, kv_heads * size),
        "layers/0/attn/o_proj/kernel": (heads * size, d),
        "layers/0/mlp/gate_proj/kernel": (d, 6),
        "layers/0/mlp/up_proj/kernel": (d, 6),
        "layers/0/mlp/down_proj/kernel": (6, d),
        "layers/0/input_layernorm/scale": (d,),
    }
    shapes["embed/embedding"] = shapes.pop("embed")
    states = history(shapes)
    graph = nowcast.transformer(states[0], heads=heads, kv_heads=kv_heads)
    each, rng = heads // kv_heads, np.random.default_rng(0)
    groups = rng.permutation(kv_heads)
    inner = np.stack([rng.permutation(each) for _ in range(kv_heads)])
    dims = np.stack([rng.permutation(size) for _ in range(kv_heads)])
    q = np.arange(heads * size).reshape(kv_heads, each, size)
    q = np.stack([q[g][inner[g]][:, dims[g]] for g in groups]).ravel()
    kv = np.arange(kv_heads * size).reshape(kv_heads, size)
    kv = np.stack([kv[g][dims[g]] for g in groups]).ravel()

    def permuted(tree: Any) -> Any:
        name = lambda x: f"layers/0/attn/{x}_proj/kernel"
        moved = {name(x): tree[name(x)][:, q if x == "q" else kv] for x in "qkv"}
        return tree | moved | {name("o"): tree[name("o")][q]}

    assert_close(predict(tuple(map(permuted, states)), graph), permuted(predict(states, graph)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(y, y)
        y = nn.Dense(8)(nn.LayerNorm()(x))
        return x + nn.Dense(4)(y)


class FlaxGPT(nn.Module):
    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        x = nn.Embed(7, 4)(tokens)
        for n in range(2):
            x = Block(name=f"Block_{n}")(x)
        x = nn.LayerNorm()(x)
        return nn.Dense(7)(x)


def haiku_gpt(tokens: Any) -> Any:
    x, norm = hk.Embed(7, 4, name="token")(tokens), lambda x: hk.LayerNorm(-1, True, True)(x)
    for _ in range(2):
        init = hk.initializers.VarianceScaling(1.0)
        y = norm(x)
        x = x + hk.MultiHeadAttention(2, 2, w_init=init, model_size=4)(y, y, y)
        y = hk.Linear(8)(norm(x))
        x = x + hk.Linear(4)(y)
    y = norm(x)
    return hk.Linear(7)(y)


@pytest.mark.parametrize("kind", ["flax", "haiku"])
def test_transformers_of_haiku_and_flax(kind: str) -> None:
    """The modules are found by name, with nothing left over; the wiring is that of the roles."""
    tokens = jnp.zeros((1, 3), jnp.int32)
    model = FlaxGPT() if kind == "flax" else hk.transform(haiku_gpt)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    graph = nowcast.transformer(params, heads=2)
    sizes = dict(graph.groups)
    assert sizes["tokens"] == 7
    assert sizes["hidden 1"] == 8
    kinds = [wire.kind for wire in graph.wires]
    assert [kinds.count(kind) for kind in (Kind.QUERY, Kind.KEY, Kind.VALUE, Kind.SKIP, Kind.HEAD)] == [2, 2, 2, 4, 4]
    key = next(wire for wire in graph.wires if wire.kind == Kind.KEY)
    assert (key.source, key.target) == (("queries 0",), ("stream 0",))


def test_what_is_unknown_is_named() -> None:
    params = {"linear": {"w": jnp.ones((3, 5)), "b": jnp.ones(5)}, "linear_1": {"w": jnp.ones((4, 2))}}
    with pytest.raises(InputError, match=r"'linear_1/w' of shape \(4, 2\) after the 5 neurons"):
        nowcast.mlp(params)
    params["linear_1"] = {"w": jnp.ones((5, 2))}
    params["gru"] = {"w_h": jnp.ones((2, 2))}
    with pytest.raises(InputError, match="names do not tell the order"):
        nowcast.mlp(params)
    with pytest.raises(InputError, match="wiring of gru/w_h is not known"):
        nowcast.mlp(params, ["linear", "linear_1"])
    with pytest.raises(InputError, match="no module 'dense'"):
        nowcast.mlp(params, ["dense"])
    with pytest.warns(UserWarning, match="unconnected: gru/w_h"):
        graph = nowcast.mlp(params, ["linear", "linear_1"], unknown="unconnected")
    wiring.check(graph, params)
    with pytest.raises(InputError, match="transposed convolution"):
        nowcast.conv_net({"conv2_d_transpose": {"w": jnp.ones((3, 3, 4, 4))}}, ["conv2_d_transpose"])
    with pytest.raises(InputError, match="expected numbers above 0, the first a multiple"):
        nowcast.transformer(params, heads=4, kv_heads=3)
    with pytest.raises(InputError, match="no module of role '0/query'"):
        nowcast.transformer(params, heads=4)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (Wire("x", ("a",), ("b",), 1, Layout("i o")), "no such path"),
        (Wire("w", ("a",), ("c",), 1, Layout("i o")), "no group 'c'"),
        (Wire("w", ("a",), ("b",), 1, Layout("o i")), "has 2 source neurons, its groups 3"),
        (Wire("w", ("a",), ("b",), 99, Layout("i o")), "kind 99"),
        (Wire("w", ("a",), ("b",), 1, Layout("i")), "a letter of i o d f p 0-9 for each axis"),
        (Wire("w", ("a",), ("b",), 1, Layout("i o", (3, 3))), "expected as many entries"),
        (Wire("w", ("a",), ("b",), 1, Layout("i 2", None)), "index beyond"),
        (Wire("w", ("a",), ("b",), 1, Layout("i o", None, (2, 1))), "only axes of length 1"),
    ],
)
def test_wires_that_do_not_fit(wire: Wire, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wiring.check(Wiring((("a", 3), ("b", 2)), (wire,)), {"w": jnp.ones((3, 2))})


def test_partly_wired_parameters_are_refused() -> None:
    part = Wire("w", ("a",), ("b",), 1, Layout("i 0 o", (3, 2, 2)))
    with pytest.raises(InputError, match="'w' is only partly on wires"):
        wiring.check(Wiring((("a", 3), ("b", 2)), (part,)), {"w": jnp.ones((3, 4))})


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout("i o"), (3, 4)),
        (Layout("f f i o"), (5, 5, 2, 3)),
        (Layout("p i o", (4, 3, 2)), (12, 2)),
        (Layout("o i i i", (4, 2, 1, 3), (1, 1, 2, 1)), (4, 6)),
        (Layout("f f p d o", (3, 3, 1, 2, 2)), (3, 3, 1, 4)),
        (Layout(""), ()),
    ],
    ids=lambda x: str(getattr(x, "axes", "")),
)
def test_blocks_there_and_back(layout: Layout, shape: tuple[int, ...]) -> None:
    x = jnp.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape)
    block = blocks.to_block(layout, x)
    assert block.shape == wiring.block_of(layout, shape)
    np.testing.assert_array_equal(blocks.from_block(layout, shape, block), x)


def test_large_kernels_flattening_scalars_and_small_networks() -> None:
    """5x5 kernels, a depthwise one, a flattened image, a residual block, a scalar, fewer than nine neurons."""
    shapes = {
        "conv/w": (5, 5, 1, 2),
        "depthwise/w": (3, 3, 1, 2),
        "norm/scale": (1, 1, 1, 2),
        "a/w": (3, 3, 2, 2),
        "linear/w": (12, 2),
        "linear/b": (2,),
        "temperature": (),
    }
    states = history(shapes)
    with pytest.warns(UserWarning, match="unconnected: temperature"):
        block = nowcast.Residual(("norm", "a"))
        graph = nowcast.residual_net(states[0], ["conv", "depthwise"], [block], ["linear"], unknown="unconnected")
    assert sum(wire.kind == Kind.SKIP for wire in graph.wires) == 1
    found = predict(states, graph)
    assert {name: x.shape for name, x in found.items()} == shapes
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in found.values())
    with pytest.raises(InputError, match="goes from 2 to 3 channels without a shortcut"):
        nowcast.residual_net(
            {"x/w": jnp.ones((3, 3, 1, 2)), "y/w": jnp.ones((3, 3, 2, 3))}, ["x"], [nowcast.Residual(("y",))], []
        )
    tiny = {"w": (1, 1)}
    one = Wiring((("a", 1), ("b", 1)), (Wire("w", ("a",), ("b",), 1, Layout("i o")),))
    assert predict(history(tiny), one)["w"].shape == (1, 1)


def test_tied_weights_are_means_over_their_wires() -> None:
    """A square matrix used in two layers, with a network that reads kinds only: the mean of what the two say."""
    network = nowcast.WNN(hidden=6)
    weights = jax.tree.map(lambda x: 20.0 * x, network.init(jax.random.key(3)))
    states = history({"w": (3, 3)})
    graph = lambda *kinds: Wiring((("a", 3),), tuple(Wire("w", ("a",), ("a",), kind, Layout("i o")) for kind in kinds))
    one, other, both = (predict(states, graph(*kinds), network, weights) for kinds in ((1,), (5,), (1, 5)))
    assert_close(both, jax.tree.map(lambda a, b: (a + b) / 2, one, other), 1e-5)
    assert np.max(np.abs(one["w"] - other["w"])) > 1e-3
