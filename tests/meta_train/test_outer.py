"""The outer step on a stand-in estimator whose gradient is known."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt.errors import InputError
from learned_opt.pretrained import CARD_FIELDS, save_pretrained
from meta_train import outer, trainer
from meta_train.config import MetaTrainConfig, RuleConfig
from meta_train.errors import RunFailed
from meta_train.outer import Experiment
from meta_train.presets import PRESETS

CONFIG = dataclasses.replace(PRESETS["debug"].config, steps=40, checkpoint_every=5, metrics_every=4)


@dataclasses.dataclass(frozen=True)
class Scripted:
    """Estimate number t has gradient `scale` everywhere and meta-loss t; NaN from `breaks` on, until `mends`."""

    breaks: int = 10**6
    mends: int = 10**6
    scale: float = 2.0
    inner_steps: int = 1

    def init(self, problem: Any, theta: Any, key: Any) -> Any:
        return {"t": jnp.int32(0)}

    def estimate(self, problem: Any, theta: Any, state: Any) -> Any:
        t = state["t"]
        value = jnp.where((t >= self.breaks) & (t < self.mends), jnp.nan, self.scale)
        return jax.tree.map(lambda x: jnp.full_like(x, value), theta), {"t": t + 1}, {"meta_loss": jnp.float32(t)}


def experiment(estimator: Scripted, config: MetaTrainConfig = CONFIG) -> Experiment:
    real = outer.build(config)
    return dataclasses.replace(real, estimator=estimator)


def run(steps: int, estimator: Scripted, config: MetaTrainConfig = CONFIG) -> tuple[list[Any], list[Any]]:
    made = experiment(estimator, config)
    state = made.init()
    step = jax.jit(made.step)
    states, reports = [state], []
    for _ in range(steps):
        state, report = step(state, made.problems)
        states.append(state)
        reports.append(report)
    return states, reports


def test_first_steps_follow_adam_on_the_clipped_gradient() -> None:
    states, reports = run(3, Scripted())
    # Adam's first steps on a constant gradient are the learning rate, which warms up over two steps from zero.
    for before, after, rate in zip(states[:-1], states[1:], (0.0, 1.5e-3, 3e-3), strict=True):
        moved = jax.tree.map(lambda a, b: a - b, before.theta, after.theta)
        for leaf in jax.tree.leaves(moved):
            np.testing.assert_allclose(leaf, rate, rtol=1e-3, atol=1e-6)
    count = sum(x.size for x in jax.tree.leaves(states[0].theta))
    np.testing.assert_allclose(reports[0].means["gradient_norm"], 2 * np.sqrt(count), rtol=1e-6)


def test_a_part_is_sought_in_units_of_its_noise() -> None:
    """Its steps are its factor times as large, and the norm that clips counts its gradient per unit."""
    estimator = dataclasses.replace(CONFIG.estimator, scales={"layers/0/w": 3.0})
    states, reports = run(2, Scripted(), dataclasses.replace(CONFIG, estimator=estimator))
    moved = jax.tree.map(lambda a, b: a - b, states[1].theta, states[2].theta)
    squares = 0.0
    for path, leaf in jax.tree.leaves_with_path(moved):
        factor = 3.0 if jax.tree_util.keystr(path, simple=True, separator="/") == "layers/0/w" else 1.0
        np.testing.assert_allclose(leaf, factor * 1.5e-3, rtol=1e-3)
        squares += leaf.size * (2.0 * factor) ** 2
    np.testing.assert_allclose(reports[0].means["gradient_norm"], np.sqrt(squares), rtol=1e-6)


def test_metrics_are_means_since_the_last_line() -> None:
    _, reports = run(9, Scripted())
    means = [float(report.means["meta_loss"]) for report in reports]
    assert means == [0, 0.5, 1, 1.5, 4, 4.5, 5, 5.5, 8]
    assert [float(report.meta_loss) for report in reports] == list(range(9))


def test_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    states, reports = run(6, Scripted(breaks=2, mends=4))
    assert [int(report.failures) for report in reports] == [0, 0, 1, 2, 0, 0]
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))
    assert same(states[2].theta, states[4].theta)
    assert not same(states[4].theta, states[5].theta)
    assert float(reports[3].means["skipped"]) == 0.5


def test_several_tasks_are_averaged() -> None:
    config = dataclasses.replace(CONFIG, tasks=dataclasses.replace(CONFIG.tasks, samples=2))
    made = experiment(Scripted(), config)
    assert made.inner_steps == 2 and len(made.init().estimators) == 2
    states, reports = run(1, Scripted(scale=3.0), config)
    assert len(states[1].estimators) == 2
    assert float(reports[0].meta_loss) == 0.0


def test_theta_depends_on_the_seed_and_nothing_else() -> None:
    a, b = experiment(Scripted()), experiment(Scripted(), dataclasses.replace(CONFIG, steps=7))
    c = experiment(Scripted(), dataclasses.replace(CONFIG, seed=1))
    leaf = lambda made: np.concatenate([np.ravel(x) for x in jax.tree.leaves(made.initial_theta())])
    np.testing.assert_array_equal(leaf(a), leaf(b))
    assert not np.array_equal(leaf(a), leaf(c))


def test_run_ends_when_gradients_stay_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiment(Scripted(breaks=12))
    monkeypatch.setattr(outer, "build", lambda config: made)
    with pytest.raises(RunFailed) as caught:
        trainer.meta_train(CONFIG, tmp_path)
    step = 12 + trainer.PATIENCE
    assert f"stopped at outer step {step}: {trainer.PATIENCE} meta-gradients in a row are not finite" in str(
        caught.value
    )
    assert "the checkpoint of step 30 is intact" in str(caught.value)
    assert not (tmp_path / "weights.safetensors").exists()


def test_run_ends_when_theta_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiment(Scripted())
    lost = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), made.initial_theta())
    monkeypatch.setattr(Experiment, "initial_theta", lambda self: lost)
    monkeypatch.setattr(outer, "build", lambda config: made)
    with pytest.raises(RunFailed, match="theta is not finite; no checkpoint yet"):
        trainer.meta_train(CONFIG, tmp_path)


def test_weights_to_start_from(tmp_path: Path) -> None:
    """Those of a folder, before the first step; other architectures and folders without weights are refused."""
    config = dataclasses.replace(CONFIG, rule=RuleConfig("small_fc", {"hidden": 8}, start=str(tmp_path)))
    rule = learned_opt.SmallFC(hidden=8)
    with pytest.raises(InputError, match=r"holds no card\.json"):
        outer.build(config).initial_theta()
    theta = rule.init(jax.random.key(123))
    save_pretrained(tmp_path, rule, theta, dict.fromkeys(CARD_FIELDS, ""))
    started = outer.build(config).init()
    jax.tree.map(np.testing.assert_array_equal, started.theta, theta)
    assert outer.build(config).remarks() == outer.build(CONFIG).remarks() == []
    louder = dataclasses.replace(
        config, rule=dataclasses.replace(config.rule, settings={"hidden": 8, "step_mult": 0.1})
    )
    (said,) = outer.build(louder).remarks()
    assert said.endswith("weights made with step_mult 0.001, here step_mult 0.1 (--rule.settings)")
    with pytest.raises(InputError, match=r"rule.start .*: weights of SmallFC\(hidden=8.*expected those of Celo2"):
        outer.build(dataclasses.replace(config, rule=RuleConfig("celo2", start=str(tmp_path)))).initial_theta()
    with pytest.raises(InputError, match=r"rule.start expert: small_fc imitates none"):
        outer.build(dataclasses.replace(CONFIG, rule=RuleConfig(start="expert"))).initial_theta()
    with pytest.raises(InputError, match=r"theta"):  # of other settings
        outer.build(dataclasses.replace(config, rule=RuleConfig(start=str(tmp_path)))).initial_theta()


def test_parts_of_scale_zero_stay_as_they_are(tmp_path: Path) -> None:
    """Neither the gradient nor weight decay moves them; all others move."""
    estimator = dataclasses.replace(CONFIG.estimator, scales={"layers/0/w": 0.0})
    decayed = dataclasses.replace(CONFIG.meta_optimizer, weight_decay=0.5)
    config = dataclasses.replace(CONFIG, estimator=estimator, meta_optimizer=decayed, steps=5)
    made = outer.build(config)
    before, step = made.init(), jax.jit(made.step)
    after = before
    for _ in range(3):
        after, _ = step(after, made.problems)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before.theta, after.theta)
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): m for path, m in jax.tree.leaves_with_path(moved)}
    assert [name for name, m in names.items() if not m] == ["layers/0/w"]
