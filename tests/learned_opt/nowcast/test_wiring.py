"""Builders of wirings, and wirings that do not fit."""

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


def test_residual_blocks_must_fit() -> None:
    params = {"x/w": jnp.ones((3, 3, 1, 2)), "y/w": jnp.ones((3, 3, 2, 3)), "z/w": jnp.ones((1, 1, 2, 3))}
    with pytest.raises(InputError, match="goes from 2 to 3 channels without a shortcut"):
        nowcast.residual_net(params, ["x"], [nowcast.Residual(("y",))], [])
    scaled = params | {"n/scale": jnp.ones((2,))}
    with pytest.raises(InputError, match=r"shortcut \('n',\) has no weight"):
        nowcast.residual_net(scaled, ["x"], [nowcast.Residual(("y",), ("n",))], [])
    graph = nowcast.residual_net(params, ["x"], [nowcast.Residual(("y",), ("z",))], [])
    y, z = (next(wire for wire in graph.wires if wire.path == f"{name}/w") for name in "yz")
    assert (y.source, y.target) == (z.source, z.target)
    assert not [wire for wire in graph.wires if not wire.path]


def test_flattened_images() -> None:
    """Both orders of numbering, and none where the sizes do not fit."""
    params = {"conv/w": jnp.ones((3, 3, 1, 2)), "linear/w": jnp.ones((12, 5))}
    for flatten, layout in (("channels_last", ("p i o", (6, 2, 5))), ("channels_first", ("i p o", (2, 6, 5)))):
        graph = nowcast.conv_net(params, ["conv", "linear"], flatten=flatten)
        assert graph.wires[-1].layout == Layout(*layout)
    with pytest.raises(InputError, match=r"'linear/w' of shape \(13, 5\) after the 2 neurons"):
        nowcast.conv_net(params | {"linear/w": jnp.ones((13, 5))}, ["conv", "linear"])
    with pytest.raises(InputError, match="flatten is 'rows'"):
        nowcast.conv_net(params, ["conv", "linear"], flatten="rows")
