"""Training of networks: the loss, resuming, and the release that comes of it."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import nowcast
from learned_opt.errors import InputError, WeightsError
from learned_opt.nowcast import released
from meta_train import cli
from meta_train.nowcast import train as training
from meta_train.nowcast import trajectories, windows
from meta_train.nowcast.config import TrainConfig
from meta_train.nowcast.wirings import to_json
from meta_train.progress import Reporter

pytestmark = pytest.mark.quick_compilation
SHAPES = {"linear_0/w": (3, 4), "linear_0/b": (4,), "linear_1/w": (4, 2), "linear_1/b": (2,)}
GRAPH = nowcast.mlp({name: jnp.zeros(shape) for name, shape in SHAPES.items()})
SMALL = {"hidden": 6, "max_horizon": 8}
CONFIG = TrainConfig(
    settings=SMALL,
    steps=6,
    tasks_per_step=1,
    windows=2,
    strides=(1, 2),
    checkpoint_every=4,
    metrics_every=2,
    validation=2,
)
SILENT = Reporter(silent=True)


def states(seed: int, count: int = 30) -> dict[str, Any]:
    """Parameters that slow down on their way."""
    rng = np.random.default_rng(seed)
    time = 1.0 - np.exp(-np.arange(count) / 15)
    trend = lambda shape: time.reshape(-1, *(1,) * len(shape)) * rng.normal(size=shape)
    return {name: np.float32(rng.normal(size=shape) + trend(shape)) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection as `collect` writes it."""
    folder = tmp_path_factory.mktemp("data")
    runs = [{"task": 0, "run": n, "file": f"{n}.safetensors", "diverged": False} for n in range(3)]
    for n, run in enumerate(runs):
        trajectories.save(folder / str(run["file"]), states(n))
    manifest = {
        "format": trajectories.FORMAT,
        "config": {"tasks": 1, "runs": 3, "steps": 58, "every": 2},
        "tasks": [{"name": "toy", "parameters": 26, "rate": 0.01, "wiring": to_json(GRAPH)}],
        "runs": runs,
    }
    (folder / trajectories.MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert training.train(CONFIG, data, out, SILENT).results is not None
    return out


def batch(count: int, seed: int = 0, **changes: Any) -> windows.Windows:
    shape = windows.Shape(states=5, horizons=8, strides=(2,), flip=False)._replace(**changes)
    found = {Path(str(n)): states(n) for n in range(2)}
    cut = lambda path, start, stop, stride: {name: x[start:stop:stride] for name, x in found[path].items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "load", cut)
        return windows.sample(list(found), count, 30, shape, np.random.default_rng(seed))


def test_windows_follow_the_trajectory() -> None:
    """Equal spacings, the targets right after the history; masked beyond the end of the run."""
    found = batch(6, horizons=40)
    known = found.mask.sum(axis=1)
    assert ((known >= windows.MIN_HORIZONS) & (known <= 12)).all()
    for n in range(6):
        row = [x["linear_0/b"][n] for x in found.history]
        row += list(found.targets["linear_0/b"][n, : known[n]])
        matches = [
            trajectory["linear_0/b"][start : start + 2 * len(row) : 2]
            for trajectory in (states(0), states(1))
            for start in range(30 - 2 * len(row) + 2)
        ]
        assert any(np.array_equal(row, match) for match in matches)


def test_signs_are_drawn_for_whole_tensors() -> None:
    plain, flipped = batch(12, seed=3), batch(12, seed=3, flip=True)
    assert flipped.history[0]["linear_0/w"].shape == (12, 3, 4)
    signs = {tuple(np.unique(np.sign(x["linear_0/w"][0])).tolist()) for x in flipped.history}
    assert len(signs) == 1
    assert not np.array_equal(plain.history[0]["linear_0/w"], flipped.history[0]["linear_0/w"])


class Oracle:
    """Predicts what it is given, plus an error in units of the deviation of the tensor."""

    states, max_horizon = 5, 8

    def __init__(self, targets: Any, error: float) -> None:
        self.targets, self.error = targets, error

    def init(self, key: Any) -> Any:
        del key
        return ()

    def predict(self, theta: Any, history: Any, k: Any, graph: Any) -> Any:
        del theta, k, graph
        from learned_opt.nowcast.base import scales

        return jax.tree.map(lambda x, s: x + self.error * s[1], self.targets, scales(history))


@pytest.mark.parametrize("error", [0.0, 0.25])
def test_the_loss_is_the_mean_error_in_deviations(error: float) -> None:
    found = batch(1)
    targets = jax.tree.map(lambda x: jnp.asarray(x[0]), found.targets)
    found_loss = jax.jit(lambda batch: training.loss(Oracle(targets, error), (), batch, GRAPH))(found)
    assert float(found_loss) == pytest.approx(error, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("network", [nowcast.WNN(hidden=4, max_horizon=8), nowcast.NiNo(hidden=4, max_horizon=8)])
def test_permuted_neurons_scales_and_offsets_do_not_change_the_loss(network: Any) -> None:
    """Why they are not drawn; signs do, which are."""
    theta = jax.tree.map(
        lambda x: 0.5 * jax.random.normal(jax.random.key(x.size), x.shape), network.init(jax.random.key(0))
    )
    found, order = batch(1), np.array([2, 0, 3, 1])

    def changed(tree: Any, factor: float) -> Any:
        return {
            "linear_0/w": factor * tree["linear_0/w"][..., order] + 0.3 * abs(factor),
            "linear_0/b": tree["linear_0/b"][..., order],
            "linear_1/w": tree["linear_1/w"][..., order, :],
            "linear_1/b": tree["linear_1/b"],
        }

    program = jax.jit(lambda batch: training.loss(network, theta, batch, GRAPH))
    apply = lambda factor: windows.Windows(
        tuple(changed(x, factor) for x in found.history), changed(found.targets, factor), found.mask
    )
    assert float(program(apply(3.0))) == pytest.approx(float(program(found)), rel=1e-4)
    assert abs(float(program(apply(-3.0))) - float(program(found))) > 1e-3 * float(program(found))


def test_training_beats_the_last_state(data: Path, tmp_path: Path) -> None:
    """By a margin, within a hundred steps, on a run that it has not seen."""
    config = replace(
        CONFIG,
        steps=100,
        settings={"hidden": 16, "max_horizon": 8},
        learning_rate=1e-2,
        checkpoint_every=100,
        windows=4,
    )
    outcome = training.train(config, data, tmp_path / "run", SILENT)
    assert outcome.results is not None
    assert outcome.results["ratio"] < 0.7


def test_a_stopped_run_resumes_exactly(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    """At a step without a regular checkpoint."""
    out, log = tmp_path / "run", training._log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_log", lambda *args: (log(*args), os.kill(os.getpid(), signal.SIGTERM)))
        outcome = training.train(CONFIG, data, out, SILENT)
    assert (outcome.step, outcome.signal, outcome.results) == (2, signal.SIGTERM, None)
    with pytest.raises(WeightsError, match="repeat its command"):
        released.load(out)
    assert training.train(CONFIG, data, out, SILENT).results is not None
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_release_tells_how_it_was_made(undisturbed: Path, data: Path) -> None:
    network, theta, card = released.load(undisturbed)
    assert network == nowcast.WNN(hidden=6, max_horizon=8)
    assert card["recipe"]["config"]["steps"] == 6
    assert card["weights"]["count"] == sum(x.size for x in jax.tree.leaves(theta))
    assert card["results"]["tasks"]["toy"]["last_state"] > 0.0
    with pytest.raises(InputError, match="choose another --out"):
        training.train(replace(CONFIG, seed=1), data, undisturbed, SILENT)


def test_damaged_releases_are_refused(undisturbed: Path, tmp_path: Path) -> None:
    network, theta, card = released.load(undisturbed)
    fields = {field: card[field] for field in ("recipe", "data", "seed", "horizons", "sizes", "results")}
    made = released.save(tmp_path, network, theta, fields)
    assert made["weights"] == card["weights"]
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(WeightsError, match="truncated"):
        released.load(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps(made | {"format": "learned_opt/1"}))
    with pytest.raises(WeightsError, match="no nowcasting network"):
        released.load(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps(made | {"network": {"name": "WNN", "settings": {"hidden": 7}}}))
    with pytest.raises(WeightsError, match="sha256"):
        released.load(tmp_path)
    with pytest.raises(WeightsError, match="no released network and no folder 'nowhere'"):
        released.load("nowhere")


def test_weights_are_rounded_in_the_loss_alone() -> None:
    """The gradient is that at the rounded weights, in float32."""
    network, found = nowcast.WNN(hidden=4, max_horizon=8), batch(1)
    theta = network.init(jax.random.key(0))
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), theta)
    program = training.gradient_program(network, GRAPH, "bfloat16")
    for x, y in zip(*map(jax.tree.leaves, (program(theta, found), program(rounded, found))), strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(x, y)


def test_bad_settings_are_named(data: Path, tmp_path: Path) -> None:
    for change, text in (
        ({"strides": (7,)}, "needs 36 states, the trajectories have 30"),
        ({"settings": {"depth": 3}}, "depth"),
    ):
        with pytest.raises(InputError, match=text):
            training.train(replace(CONFIG, **change), data, tmp_path / "run", SILENT)  # pyright: ignore
    with pytest.raises(InputError, match="learning_rate 0"):
        replace(CONFIG, learning_rate=0.0)


def test_the_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["nowcast"]) == 2
    assert cli.main(["nowcast", "collect", "nope", "--out", str(tmp_path)]) == 2
    assert "expected one of nowcast-small, nowcast-debug" in capsys.readouterr().err
    out = tmp_path / "run"
    assert cli.main(["nowcast", "train", "nowcast-debug", "--data", str(data), "--out", str(out)]) == 0
    assert f"released.load({str(out)!r})" in capsys.readouterr().out
