"""Numerical parity with the published networks, and the same graphs."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from plain_graph import predict

from learned_opt import nowcast
from learned_opt.nowcast import published, wiring
from learned_opt.nowcast.wiring import Kind, Layout, Wire, Wiring

pytestmark = pytest.mark.quick_compilation
GOLDEN = Path(__file__).parents[2] / "golden"
SHARED = Path(__file__).parents[4] / "shared" / "golden"
CASES = [(case, "no_posw") for case in ("mlp", "conv", "gpt2", "llamagqa")]
CASES += [("mlp", "mlp"), ("mlp", "mlp_h32"), ("gpt2", "mlp")]
MORE = [("llama", "no_posw"), *((case, "mlp") for case in ("conv", "llama", "llamagqa"))]
"""What these show, the cases above show too."""


def load(name: str) -> dict[str, Any]:
    path = next((folder / f"{name}.npz" for folder in (GOLDEN, SHARED) if (folder / f"{name}.npz").exists()), None)
    if path is None:
        pytest.skip(f"{name}.npz is not shipped: it holds weights of others, or what they predict")
    with np.load(path) as file:
        return dict(file)


def network(weights: str) -> Any:
    tensors = load(f"nino_weights_{weights}")
    del tensors["__model_args__"]
    return published.from_tensors(tensors)


class Renamed(NamedTuple):
    """A published parameter as ours: its path, and its axes in our order."""

    path: str
    axes: tuple[int, ...]


def renamed(case: str, name: str) -> Renamed:
    """Parameters of PyTorch under names of Haiku (mlp, conv) or Flax (gpt2)."""
    module, _, leaf = name.rpartition(".")
    if case == "mlp":
        return Renamed(
            f"linear_{int(module[4:]) // 2}/{'w' if leaf == 'weight' else 'b'}", (1, 0) if leaf == "weight" else (0,)
        )
    if case == "conv":
        ours = {"net.0": "conv2_d", "net.2": "conv2_d_1", "net.3": "batch_norm", "net.7": "linear"}[module]
        leaves = {"weight": "scale", "bias": "offset"} if ours == "batch_norm" else {"weight": "w", "bias": "b"}
        axes = {"batch_norm": (0,), "linear": (1, 0)}.get(ours, (2, 3, 1, 0)) if leaf == "weight" else (0,)
        return Renamed(f"{ours}/{leaves[leaf]}", axes)
    tables, matrix = module.endswith(("wte", "wpe")), module.endswith(("c_attn", "c_proj", "c_fc"))
    ours = "bias" if leaf == "bias" else "embedding" if tables else "kernel" if matrix else "scale"
    return Renamed(f"{module.replace('.', '/')}/{ours}", (0, 1) if leaf == "weight" and (tables or matrix) else (0,))


def ours(case: str, golden: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A tree of published parameters, under our names where our builders know the model."""
    names = json.loads(str(golden["meta"]))["param_names"]
    if case.startswith("llama"):
        # Its table of tokens is on the edges of the published graph in another order than it should be.
        mixed = lambda name, x: x.T.reshape(x.shape) if "embed_tokens" in name else x
        return {name: mixed(name, golden[prefix + name]) for name in names}
    table = {name: renamed(case, name) for name in names}
    return {path: np.transpose(golden[prefix + name], axes) for name, (path, axes) in table.items()}


def graph(case: str, golden: dict[str, Any], params: Any) -> Wiring:
    if case == "mlp":
        return nowcast.mlp(params)
    if case == "conv":
        return nowcast.conv_net(params, ["conv2_d", "conv2_d_1", "batch_norm", "linear"])
    if case == "gpt2":
        return nowcast.transformer(params, heads=3, key_bias="residual")
    return stated(golden, params)


def stated(golden: dict[str, Any], params: dict[str, Any]) -> Wiring:
    """The graph as the file has it, with the odd places of the published Llama builder."""
    edges, kinds = golden["graph/edge_index"], golden["graph/edge_type"]
    ends, found = {0, int(golden["graph/num_nodes"])}, {}
    for name, (start, stop) in json.loads(str(golden["graph/edge_dict"])).items():
        sets = [np.unique(edges[end, start:stop]) for end in (0, 1)]
        for nodes in sets:
            assert nodes[-1] - nodes[0] == len(nodes) - 1
            ends |= {int(nodes[0]), int(nodes[-1]) + 1}
        found[name] = (edges[:, start:stop], sets, int(kinds[start]))
    groups = [(str(a), b - a) for a, b in pairwise(sorted(ends))]
    within = lambda nodes: tuple(name for name, _ in groups if nodes[0] <= int(name) <= nodes[-1])
    wires = []
    for name, (pairs, (source, target), kind) in found.items():
        if name in params:
            shape = params[name].shape
            forward = len(shape) == 1 or pairs[0].reshape(shape[::-1])[0, 0] == pairs[0].reshape(shape[::-1])[0, -1]
            layout = Layout("o" if len(shape) == 1 else "o i" if forward else "i o")
        else:
            layout = Layout("d", (len(source),)) if kind == Kind.SKIP else Layout("i o", (1, len(target)))
        wires.append(Wire(name if name in params else "", within(source), within(target), kind, layout))
    return Wiring(tuple(groups), tuple(wires))


@pytest.mark.parametrize(("case", "weights"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)])
def test_predicts_as_published(case: str, weights: str) -> None:
    """The published weights, at four horizons at once, within 1e-5 of the largest move."""
    golden = load(f"nino_{case}__{weights}")
    predictor, theta = network(weights)
    history = tuple(ours(case, golden, f"state{t}/") for t in range(5))
    if weights == "no_posw":
        wired = graph(case, golden, history[0])
        options = {"pos": places(golden, wired)}
    else:
        wired = graph(case, load(f"nino_{case}__no_posw"), history[0])
        options = {}
    wiring.check(wired, history[0])
    meta = json.loads(str(golden["meta"]))
    horizons = meta["ks"]
    found = predict(history, wired, predictor, theta, horizons, **options)
    for j, k in enumerate(horizons):
        want, last = ours(case, golden, f"pred_k{k}/"), history[-1]
        error = max(np.max(np.abs(found[name][j] - want[name])) for name in want)
        largest = max(np.max(np.abs(want[name] - last[name])) for name in want)
        print(f"{case} {weights} k={k}: {error / largest:.1e} of the largest move {largest:.1e}")
        assert error <= 1e-5 * largest
    scales = jax.jit(nowcast.scales)(history)
    for name, mean, deviation in zip(meta["param_names"], golden["scale_mean"], golden["scale_std"], strict=True):
        path = name if case.startswith("llama") else renamed(case, name).path
        np.testing.assert_allclose(scales[path], [mean, deviation, 1.0], rtol=1e-5, atol=1e-7)


def places(golden: dict[str, Any], wired: Wiring) -> dict[str, np.ndarray]:
    """The positions of the published graph, by groups."""
    starts = np.cumsum([0, *(n for _, n in wired.groups)])
    return {name: golden["graph/pos"][a : a + n] for (name, n), a in zip(wired.groups, starts, strict=False)}


def pairs_of(wired: Wiring, shapes: dict[str, tuple[int, ...]]) -> dict[tuple[str, int], np.ndarray]:
    """(path, kind) -> numbers of source and target neurons of each edge, in the order of the parameter's entries."""
    starts = dict(zip((n for n, _ in wired.groups), np.cumsum([0, *(n for _, n in wired.groups)]), strict=False))
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for wire in wired.wires:
        axes, view = wire.layout.axes.split(), wiring.view_of(wire.layout, shapes.get(wire.path, ()))
        kept = [(a, n) for a, n in zip(axes, view, strict=True) if a in "dio"]
        index = np.indices([n for _, n in kept])

        def number(end: str, kept: Any = kept, index: Any = index) -> np.ndarray:
            own = [(i, n) for i, (a, n) in zip(index, kept, strict=True) if a in ("d", end)]
            if not own:
                return np.zeros(index.shape[1:], int)
            return np.asarray(np.ravel_multi_index([i for i, _ in own], [n for _, n in own]))

        ends = [starts[names[0]] + number(end) for names, end in ((wire.source, "i"), (wire.target, "o"))]
        found.setdefault((wire.path, wire.kind), []).append(
            np.stack([np.broadcast_to(e, index.shape[1:]).ravel() for e in ends])
        )
    return {key: np.concatenate(parts, 1) for key, parts in found.items()}


@pytest.mark.parametrize("case", ["mlp", "conv", "gpt2"])
def test_builds_the_published_graph(case: str) -> None:
    """Same neurons, same edges in the same order, same kinds."""
    golden = {k.removeprefix(f"{case}/"): x for k, x in load("nino_graphs").items() if k.startswith(f"{case}/")}
    params = {}
    for name, shape in json.loads(str(golden["shapes"])).items():
        path, axes = renamed(case, name)
        params[path] = np.zeros([shape[axis] for axis in axes])
    wired = graph(case, golden, params)
    assert sum(n for _, n in wired.groups) == golden["num_nodes"]
    found = pairs_of(wired, {name: x.shape for name, x in params.items()})
    edges, kinds = golden["edge_index"], golden["edge_type"]
    seen, pseudo = 0, dict[int, list[np.ndarray]]({Kind.SKIP: [], Kind.HEAD: []})
    for name, (start, stop) in json.loads(str(golden["edge_dict"])).items():
        kind, want = int(kinds[start]), edges[:, start:stop]
        assert (kinds[start:stop] == kind).all()
        if kind in pseudo:
            pseudo[kind].append(want)
            continue
        path = name
        for part in ("q", "k", "v"):
            path = path.replace(f"c_attn.{part}.", "c_attn.")
        key = renamed(case, path).path, kind
        have = found[key]
        if "c_attn" in path and path.endswith("bias"):
            width = want.shape[1]
            have = have[:, "qkv".index(name.split(".")[-2]) * width :][:, :width]
        np.testing.assert_array_equal(have, want, err_msg=name)
        seen += want.shape[1]
    assert seen == sum(x.shape[1] for (path, _), x in found.items() if path)
    for kind, want in pseudo.items():
        if want:
            order = lambda x: x[:, np.lexsort(x)]
            np.testing.assert_array_equal(order(found["", kind]), order(np.concatenate(want, 1)))


def test_the_published_schedules() -> None:
    golden = load("nino_k_schedule")
    for name, want in golden.items():
        num_steps, period, power = name.split("_")
        assert nowcast.horizons(int(num_steps), int(period), power=float(power)) == tuple(want)


def test_positions_hardly_matter() -> None:
    """Why they are 0 by default."""
    golden = load("nino_mlp__no_posw")
    predictor, theta = network("no_posw")
    history = tuple(ours("mlp", golden, f"state{t}/") for t in range(5))
    wired = nowcast.mlp(history[0])
    horizons = json.loads(str(golden["meta"]))["ks"]
    nowhere = {name: np.zeros_like(x) for name, x in places(golden, wired).items()}
    without = predict(history, wired, predictor, theta, horizons, pos=nowhere)
    move = lambda tree: np.concatenate([np.ravel(tree[name] - history[-1][name]) for name in sorted(history[-1])])
    want = move(ours("mlp", golden, "pred_k20/"))
    found = move({name: np.asarray(x[horizons.index(20)]) for name, x in without.items()})
    assert 0.0 < np.linalg.norm(found - want) < 0.01 * np.linalg.norm(want)
