import dataclasses
import json
from pathlib import Path

import jax
import pytest

import learned_opt
from learned_opt.errors import InputError, WeightsError
from learned_opt.pretrained import CARD_FIELDS, save_pretrained
from meta_train.evaluate.contenders import fingerprint
from meta_train.export import export
from meta_train.presets import PRESETS
from meta_train.run_directory import claim, record_start

CONFIG = dataclasses.replace(PRESETS["debug"].config, steps=30)


def finished(run: Path, outer_steps: int) -> Path:
    with claim(run, CONFIG):
        record_start(run, CONFIG, step=0, devices=[])
    rule = learned_opt.SmallFC()
    card = dict.fromkeys(CARD_FIELDS) | {"recipe": {"outer_steps": outer_steps}, "results": {"meta_loss_after": 1.0}}
    save_pretrained(run, rule, rule.init(jax.random.key(0)), card)
    return run


def test_copies_weights_and_card_once(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", 30)
    target = export(run, "small", tmp_path / "releases")
    assert sorted(path.name for path in target.iterdir()) == ["card.json", "weights.safetensors"]
    assert learned_opt.load_pretrained(target).card == learned_opt.load_pretrained(run).card
    with pytest.raises(InputError, match="not overwritten"):
        export(run, "small", tmp_path / "releases")
    assert [path.name for path in (tmp_path / "releases").iterdir()] == ["small"]


def test_card_takes_the_figures_of_an_evaluation_of_these_weights(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", 30)
    theta = learned_opt.load_pretrained(run).theta
    row = {
        "mean_train_loss": {"mean": 0.5},
        "final_train_loss": 1,
        "final_valid_loss": 2,
        "diverged": 0,
        "comparison": 3,
    }
    summary = {
        "configuration": {
            "suite": "s",
            "steps": 9,
            "seeds": 2,
            "versions": {},
            "optimizers": {"adam": {"theta_sha256": None}, "elsewhere/run": {"theta_sha256": fingerprint(theta)}},
        },
        "per_task": {"t": {"adam": {}, "elsewhere/run": row | {"more": 4}}},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    target = export(run, "small", tmp_path / "releases", tmp_path)
    results = learned_opt.load_pretrained(target).card["results"]
    assert results["meta_loss_after"] == 1.0
    assert results["evaluation"]["tasks"] == {"t": row}
    del summary["configuration"]["optimizers"]["elsewhere/run"]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="is of adam: expected one with the weights"):
        export(run, "other", tmp_path / "releases", tmp_path)


def test_unfinished_run_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", 12)
    with pytest.raises(InputError, match="weights of 12 of 30 outer steps"):
        export(run, "small", tmp_path / "releases")
    assert not (tmp_path / "releases").exists()


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", 30)
    weights = run / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(WeightsError):
        export(run, "small", tmp_path / "releases")
