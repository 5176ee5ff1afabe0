"""Steps to a target, acceptance rules, horizons by uncertainty, and jumps on top of other optimizers."""

from pathlib import Path
from typing import Any

import evaluate_toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import nowcast
from learned_opt.errors import InputError
from meta_train.evaluate import budget
from meta_train.nowcast import contenders, evaluate, rules, scores
from meta_train.nowcast.cautious import Cautious
from meta_train.nowcast.config import EvaluateConfig
from meta_train.nowcast.scores import Cell
from meta_train.progress import Reporter
from tasks import suites
from tasks.longer import Longer

pytestmark = pytest.mark.quick_compilation
SILENT = Reporter(silent=True)
K = jnp.asarray(4)


def line(slope: float, noise: float = 0.0, seed: int = 0) -> tuple[dict[str, Any], ...]:
    rng = np.random.default_rng(seed)
    start, way = rng.normal(size=(2, 6, 5)), slope * rng.normal(size=(6, 5))
    return tuple({"w": jnp.float32(start[0] + n * way + noise * rng.normal(size=(6, 5)))} for n in range(5))


def test_a_jump_along_the_path_is_made_whole() -> None:
    history = line(0.1)
    ahead = nowcast.LineFit().predict((), history, K, None)
    assert float(rules.path(history, ahead, K)) == pytest.approx(1.0, abs=1e-3)
    far = jax.tree.map(lambda y, x: x + 10.0 * (y - x), ahead, history[-1])
    assert float(rules.path(history, far, K)) == pytest.approx(0.1, abs=1e-3)
    back = jax.tree.map(lambda y, x: x - (y - x), ahead, history[-1])
    assert float(rules.path(history, back, K)) == 0.0
    assert float(rules.path(history, history[-1], K)) == 0.0


def test_noise_is_not_predictable() -> None:
    assert float(rules.predictable(line(0.1), {}, K)) == pytest.approx(1.0, abs=1e-3)
    assert float(rules.predictable(line(0.0, noise=0.1), {}, K)) == 0.0
    assert float(rules.predictable(line(0.0), {}, K)) <= 1.0  # nothing moved


class Drift:
    """Predicts a move along the trend and, beyond a horizon, one that its mirror image contradicts."""

    states, max_horizon = 5, 20

    def init(self, key: Any) -> Any:
        del key
        return ()

    def predict(self, theta: Any, history: Any, k: Any, graph: Any) -> Any:
        del theta, graph
        ks = jnp.reshape(k, (*jnp.shape(k), 1, 1))
        trend = lambda a, b: b[(None,) * jnp.ndim(k)] + ks * (b - a)[(None,) * jnp.ndim(k)]
        doubt = jnp.where(ks > 6, 50.0, 0.0)
        return jax.tree.map(lambda a, b: trend(a, b) + doubt, history[-2], history[-1])


def test_horizons_end_where_the_mirror_image_disagrees() -> None:
    history, graph = line(0.1), nowcast.unconnected(line(0.1)[0])
    network, at = Cautious(Drift()), lambda k: Drift().predict((), history, jnp.asarray(k), graph)["w"]
    assert isinstance(network, nowcast.Network)
    found = network.predict((), history, jnp.asarray([1, 4, 20]), graph)["w"]
    for row, k in zip(found, (1, 2, 5), strict=True):
        np.testing.assert_allclose(row, at(k), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(network.predict((), history, jnp.asarray(20), graph)["w"], found[2])
    none = Cautious(Drift(), candidates=(10, 20)).predict((), history, jnp.asarray(20), graph)
    np.testing.assert_array_equal(none["w"], history[-1]["w"])


def test_jumps_on_top_of_a_learned_optimizer() -> None:
    """Its state stays as it is over a jump, and it reads its loss at all other calls."""
    inner = learned_opt.from_pretrained("small-fc-digits", num_steps=40)
    optimizer = nowcast.nowcast(inner, nowcast.LineFit(), num_steps=40, period=10, horizons=2, accept=rules.path)
    goal = jax.random.normal(jax.random.key(0), (4, 3))
    loss = lambda p: jnp.sum((p["linear"]["w"] - goal) ** 2)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params = {"linear": {"w": jnp.zeros((4, 3))}}
    state, jumped = optimizer.init(params), []
    for n in range(40):
        before, was = state.inner, params
        jumps = bool(nowcast.jumps_next(state))
        params, state = step(params, state)
        same = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, state.inner)), strict=True))
        assert same == jumps
        assert not np.array_equal(was["linear"]["w"], params["linear"]["w"])
        jumped += [n] if jumps else []
    assert jumped == [9, 19, 29] == evaluate.jump_steps(40, 10)
    assert float(loss(params)) < float(jnp.sum(goal**2))


def test_steps_to_the_level_of_the_reference() -> None:
    """A run that goes twice as fast needs half the steps; one that never gets there counts as the budget."""
    time = np.arange(2000)
    curve = lambda rate: np.float32(np.exp(-rate * time / 1000))[None].repeat(3, axis=0)
    cells = {
        "adamw": Cell(np.stack([curve(1.0), curve(0.5)]), np.full((2, 3), 0.3)),
        "fast": Cell(np.stack([curve(0.1), curve(2.0)]), np.full((2, 3), 0.2)),
        "slow": Cell(np.stack([curve(0.1), np.full((3, 2000), np.nan, np.float32)]), np.full((2, 3), np.nan)),
    }
    trials = {name: ({"learning_rate": 1}, {"learning_rate": 2}) for name in cells}
    found = scores.scores(cells, trials, {"adamw": [], "fast": [999], "slow": []}, "adamw")
    assert found["adamw"].trial == {"learning_rate": 1}
    assert found["adamw"].targets["0.5"].ratio.mean == pytest.approx(1.0)
    assert found["fast"].trial == {"learning_rate": 2}
    for share in ("0.5", "1.0"):
        assert found["fast"].targets[share].ratio.mean == pytest.approx(0.5, rel=0.06)  # the smoothing lags
    [jump] = found["fast"].jumps
    assert jump.after == pytest.approx(np.exp(-2.0), rel=1e-3)
    assert jump.adamw == pytest.approx(np.exp(-1.0), rel=1e-3)
    slow = found["slow"]
    assert (slow.targets["0.5"].missed, slow.diverged, slow.final_valid.mean) == (3, 3, None)
    assert slow.targets["0.5"].ratio.mean == pytest.approx(2.0, rel=0.06)


def test_the_same_optimizer_up_to_rounding_needs_the_same_steps() -> None:
    rng = np.random.default_rng(0)
    losses = np.float32(np.exp(-np.arange(200) / 60) + 0.05 * rng.uniform(size=(1, 5, 200)))
    cells = {"adamw": Cell(losses, losses[..., -1]), "same": Cell(losses * np.float32(1 + 1e-6), losses[..., -1])}
    made = scores.scores(cells, {name: ({},) for name in cells}, {name: [] for name in cells}, "adamw")
    for share in scores.SHARES:
        target = made["same"].targets[str(share)]
        assert target.missed == 0
        assert target.ratio.mean == pytest.approx(1.0, abs=1e-3)


def test_horizons_are_checked_before_anything_is_trained() -> None:
    for name in ("line_fit@0", "wnn-small@41"):
        with pytest.raises(InputError, match="horizon"):
            contenders.resolve([name], trials=1, period=5)


def test_names_of_contenders(tmp_path: Path) -> None:
    resolve = lambda *names: contenders.resolve(names, trials=2, period=10)
    assert [entry.name for entry in resolve("line_fit@3+path", "adamw")] == ["adamw", "line_fit@3+path"]
    for name, text in (
        ("line_fit@x", "expected NAME"),
        ("line_fit+nope", "expected one of path, predictable, or cautious"),
        ("nope", "no released network"),
    ):
        with pytest.raises(InputError, match=text):
            resolve(name)
    assert [entry.name for entry in resolve("celo2-expert+tuned")] == ["adamw", "celo2-expert+tuned"]
    with pytest.raises(InputError, match="given twice"):
        resolve("lawa", "lawa")


def test_an_evaluation_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "tasks_of", lambda suite: (evaluate_toy.linear(),))
    config, out = EvaluateConfig("linear", steps=20, period=5, seeds=2, trials=2), tmp_path / "out"
    names = ["line_fit@2+predictable", "lawa on small-fc-digits"]
    result = evaluate.evaluate(names, config, out, SILENT)
    found = result["tasks"]["linear"]
    assert not found["wired"]
    assert set(found) == {"adamw", *names, "wired"}
    assert [jump["step"] for jump in found[names[0]]["jumps"]] == [4, 9, 14]
    text = (out / "results.md").read_text()
    assert "| linear (no graph) | 1.00 (1.00–1.00) |" in text
    assert (out / "curves.png").stat().st_size > 1000
    monkeypatch.setattr(evaluate, "sweep", lambda *args, **kwargs: pytest.fail("trained again"))
    assert evaluate.evaluate(names, config, out, SILENT) == result
    with pytest.raises(InputError, match="begun with steps 20, not 30"):
        evaluate.evaluate(names, EvaluateConfig("linear", steps=30, period=5, seeds=2, trials=2), out, SILENT)


def test_a_longer_task_is_trained_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "tasks_of", lambda suite: (Longer(evaluate_toy.linear(), 2),))
    config = EvaluateConfig("linear", steps=20, period=5, seeds=2, trials=1)
    (found,) = evaluate.evaluate(["line_fit@2"], config, tmp_path / "out", SILENT)["tasks"].values()
    assert [jump["step"] for jump in found["line_fit@2"]["jumps"]] == [4, 9, 14, 19, 24, 29, 34]
    (cell, _) = (tmp_path / "out" / "cells").iterdir()
    assert np.load(cell)["losses"].shape == (1, 2, 40)


def test_more_trials_than_there_are() -> None:
    with pytest.raises(InputError, match="trials 43: expected a whole number from 1 to 42"):
        EvaluateConfig("linear", trials=budget.BUDGETS[-1] + 1)


def test_tasks_of_a_suite_or_by_name() -> None:
    assert [task.name for task in evaluate.tasks_of("digits")] == [task.name for task in suites.suite("digits")]
    assert [task.name for task in evaluate.tasks_of("digits_mlp_32, rosenbrock_8")] == ["digits_mlp_32", "rosenbrock_8"]
