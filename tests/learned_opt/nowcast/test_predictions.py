"""What the networks predict: closed forms, the equations edge by edge, and symmetries."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_graph import NETWORK, assert_close, history, plain, predict, weights

from learned_opt import nowcast
from learned_opt.errors import InputError
from learned_opt.nowcast.wiring import Kind, Layout, Wire, Wiring

pytestmark = pytest.mark.quick_compilation
MLP = {"linear/w": (3, 5), "linear/b": (5,), "linear_1/w": (5, 2), "linear_1/b": (2,)}
ODD = {
    "conv/w": (5, 5, 1, 2),
    "depthwise/w": (3, 3, 1, 2),
    "norm/scale": (1, 1, 1, 2),
    "a/w": (3, 3, 2, 2),
    "linear/w": (12, 2),
    "linear/b": (2,),
    "temperature": (),
}
"""5x5 kernels, a depthwise one, a flattened image, a residual block, a scalar, fewer than nine neurons."""


@pytest.mark.parametrize("network", [nowcast.WNN(), nowcast.NiNo()], ids=["wnn", "nino"])
def test_weights_are_float32_under_x64(network: Any) -> None:
    with jax.enable_x64(True):
        theta = jax.eval_shape(network.init, jax.random.key(0))
    assert {w.dtype for w in jax.tree.leaves(theta)} == {np.dtype(np.float32)}


def mlp() -> Wiring:
    return nowcast.mlp({name: np.zeros(shape) for name, shape in MLP.items()})


def odd(states: Any) -> Wiring:
    with pytest.warns(UserWarning, match="unconnected: temperature"):
        return nowcast.residual_net(
            states[0],
            ["conv", "depthwise"],
            [nowcast.Residual(("norm", "a"))],
            ["linear"],
            unknown="unconnected",
        )


def llama(kv_heads: int, d: int = 4, heads: int = 4, size: int = 3) -> Any:
    shapes = {
        "embed/embedding": (5, d),
        "layers/0/attn/q_proj/kernel": (d, heads * size),
        "layers/0/attn/k_proj/kernel": (d, kv_heads * size),
        "layers/0/attn/v_proj/kernel": (d, kv_heads * size),
        "layers/0/attn/o_proj/kernel": (heads * size, d),
        "layers/0/mlp/gate_proj/kernel": (d, 6),
        "layers/0/mlp/up_proj/kernel": (d, 6),
        "layers/0/mlp/down_proj/kernel": (6, d),
        "layers/0/input_layernorm/scale": (d,),
    }
    states = history(shapes)
    return states, nowcast.transformer(states[0], heads=heads, kv_heads=kv_heads)


@pytest.mark.parametrize("c", [5, 3])
def test_lines_and_averages(c: int) -> None:
    """Against the least-squares fit of NumPy, and the mean; one horizon or several."""
    states = jax.tree.map(jnp.asarray, history({"w": (4, 3), "s": ()})[:c])
    line, average = nowcast.LineFit(states=c), nowcast.LAWA(states=c)
    several, mean = line.predict((), states, jnp.array([1, 8])), average.predict((), states, jnp.array([1, 8]))
    one = line.predict((), states, jnp.asarray(8))
    for name in states[0]:
        x = np.stack([np.asarray(state[name], np.float64).ravel() for state in states])
        slope, start = np.polyfit(np.arange(1, c + 1), x, 1)
        for j, k in enumerate((1, 8)):
            want = (start + slope * (c + k)).reshape(states[0][name].shape)
            np.testing.assert_allclose(several[name][j], want, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(mean[name][j], x.mean(0).reshape(want.shape), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(one[name], several[name][1], rtol=1e-6)


def test_scales() -> None:
    """Mean and unbiased deviation over entries and states, also far from 0; and whether anything moved."""
    rng = np.random.default_rng(0)
    values = {"w": (1e4, 0.1, (30, 20)), "b": (0.0, 1.0, (7,)), "s": (-3.0, 2.0, ())}
    states = [{k: np.float32(m + s * rng.normal(size=n)) for k, (m, s, n) in values.items()} for _ in range(5)]
    states = [
        state | {"still": np.array([1.0, 2.0], np.float32), "none": np.zeros((0, 3), np.float32)} for state in states
    ]
    found = jax.jit(nowcast.scales)(tuple(states))
    for name in ("w", "b", "s"):
        x = np.stack([np.asarray(state[name], np.float64) for state in states])
        np.testing.assert_allclose(found[name], [x.mean(), x.std(ddof=1), 1.0], rtol=1e-4)
    np.testing.assert_allclose(found["still"], [1.5, np.sqrt(2.5 / 9), 0.0], rtol=1e-5)
    np.testing.assert_array_equal(found["none"], np.zeros(3))


@pytest.mark.parametrize("network", [NETWORK, nowcast.WNN(hidden=5, scale=0.7)], ids=lambda n: type(n).__name__)
def test_equations(network: Any) -> None:
    """Edge by edge, with positions of the neurons, for a net with all odd shapes."""
    states = history(ODD)
    graph, rng = odd(states), np.random.default_rng(3)
    assert sum(wire.kind == Kind.SKIP for wire in graph.wires) == 1
    graphed = isinstance(network, nowcast.NiNo)
    pos = {name: rng.normal(size=(n, 8)).astype(np.float32) for name, n in graph.groups} if graphed else None
    options = {"pos": pos} if graphed else {}
    found = predict(states, graph, network, k=7, **options)
    assert_close(found, plain(network, weights(network), states, 7, graph, pos))


def test_equations_with_grouped_queries() -> None:
    """Keys and values that edges share, edges of heads and skips."""
    states, graph = llama(kv_heads=2)
    assert_close(predict(states, graph), plain(NETWORK, weights(NETWORK), states, 7, graph))


def test_one_entry() -> None:
    """A model of one number."""
    states = history({"w": (1, 1)})
    graph = Wiring((("a", 1), ("b", 1)), (Wire("w", ("a",), ("b",), 1, Layout("i o")),))
    assert_close(predict(states, graph), plain(NETWORK, weights(NETWORK), states, 7, graph))


def test_permuted_neurons_give_permuted_predictions() -> None:
    """And it is a graph: a permutation that the wiring does not know of changes more than the order."""
    graph, states = mlp(), history(MLP)
    order = np.array([3, 0, 4, 1, 2])

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
    assert np.max(np.abs(other)) > 1e-3 * np.max(np.abs(found["linear_1/w"]))


def test_rescaled_tensors_give_rescaled_predictions() -> None:
    """Each tensor by its own factor and offset."""
    graph, states = mlp(), tuple({k: x / np.std(x) for k, x in tree.items()} for tree in history(MLP))
    scales = {"linear/w": (3.0, 0.5), "linear/b": (0.1, -2.0), "linear_1/w": (10.0, 1.0), "linear_1/b": (0.5, 0.0)}
    affine = lambda tree: {name: scales[name][0] * x + scales[name][1] for name, x in tree.items()}
    assert_close(predict(tuple(map(affine, states)), graph), affine(predict(states, graph)), 1e-3)


@pytest.mark.parametrize("network", [NETWORK, nowcast.WNN(hidden=5)], ids=lambda n: type(n).__name__)
def test_parts_do_not_matter(network: Any) -> None:
    """In one part or in many, all horizons at once or one."""
    graph, states = mlp(), history(MLP)
    theta = weights(network)
    parts = predict(states, graph, type(network)(hidden=network.hidden, edges=3, scale=network.scale), theta, [1, 7])
    assert_close(jax.tree.map(lambda x: x[1], parts), predict(states, graph, network), 1e-5)
    one, seven = parts["linear/w"]
    assert np.max(np.abs(one - seven)) > 1e-3 * np.max(np.abs(seven))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_permuted_heads_and_dimensions(kv_heads: int) -> None:
    """Groups of heads, the heads within a group, and the dimensions within all heads of a group may be permuted."""
    heads, size = 4, 3
    states, graph = llama(kv_heads)
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


def test_tied_weights_are_means_over_their_wires() -> None:
    """A square matrix used in two layers, with a network that reads kinds only: the mean of what the two say."""
    network, states = nowcast.WNN(hidden=6), history({"w": (3, 3)})
    graph = lambda *kinds: Wiring((("a", 3),), tuple(Wire("w", ("a",), ("a",), kind, Layout("i o")) for kind in kinds))
    one, other, both = (predict(states, graph(*kinds), network) for kinds in ((1,), (5,), (1, 5)))
    assert_close(both, jax.tree.map(lambda a, b: (a + b) / 2, one, other), 1e-5)
    assert np.max(np.abs(one["w"] - other["w"])) > 1e-3 * np.max(np.abs(one["w"]))


def test_still_tensors_stay_while_others_move() -> None:
    """Not even the last bit of them changes, whatever the network says."""
    states = tuple(tree | {"linear/b": np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)} for tree in history(MLP))
    found = predict(states, mlp())
    np.testing.assert_array_equal(found["linear/b"], states[-1]["linear/b"])
    assert np.max(np.abs(found["linear/w"] - states[-1]["linear/w"])) > 1e-3 * np.max(np.abs(states[-1]["linear/w"]))


def test_gradients_of_the_weights() -> None:
    """Training goes through the loops over parts: the derivative along a direction is a difference of losses."""
    network, states = nowcast.NiNo(hidden=3, layers=1, edges=4), jax.tree.map(jnp.asarray, history({"w": (3, 4)}))
    graph = Wiring((("a", 3), ("b", 4)), (Wire("w", ("a",), ("b",), 1, Layout("i o")),))
    theta = weights(network)
    loss = lambda theta: jnp.mean(network.predict(theta, states, jnp.asarray(9), graph)["w"] ** 2)
    value, slope = jax.jit(jax.value_and_grad(loss))(theta)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(slope)))
    there = jax.tree.map(lambda x, g: x + 1e-2 * g / norm, theta, slope)
    back = jax.tree.map(lambda x, g: x - 1e-2 * g / norm, theta, slope)
    compiled = jax.jit(loss)
    np.testing.assert_allclose((compiled(there) - compiled(back)) / 2e-2, norm, rtol=1e-2)
    assert np.isfinite(value)


@pytest.mark.parametrize(
    "make", [lambda: nowcast.LineFit(states=1), lambda: nowcast.WNN(hidden=0), lambda: nowcast.NiNo(layers=0)]
)
def test_networks_out_of_range(make: Any) -> None:
    with pytest.raises(InputError, match="expected a whole number, at least"):
        make()
