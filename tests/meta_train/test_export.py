import dataclasses
from pathlib import Path

import jax
import pytest

import learned_opt
from learned_opt.errors import InputError, WeightsError
from learned_opt.pretrained import CARD_FIELDS, save_pretrained
from meta_train.export import export
from meta_train.presets import PRESETS
from meta_train.run_directory import claim, record_start

CONFIG = dataclasses.replace(PRESETS["debug"].config, steps=30)


def finished(run: Path, outer_steps: int) -> Path:
    with claim(run, CONFIG):
        record_start(run, CONFIG, step=0, devices=[])
    rule = learned_opt.SmallFC()
    card = dict.fromkeys(CARD_FIELDS) | {"recipe": {"outer_steps": outer_steps}}
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
