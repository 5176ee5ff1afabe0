import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization

import learned_opt
from learned_opt.errors import InputError, WeightsError
from learned_opt.pretrained import CARD_FIELDS, save_pretrained
from meta_train import cli
from meta_train.evaluate.contenders import fingerprint
from meta_train.export import export, export_published
from meta_train.presets import PRESETS
from meta_train.run_directory import claim, record_start

CONFIG = dataclasses.replace(PRESETS["debug"].config, steps=30)


def finished(run: Path, outer_steps: int) -> Path:
    with claim(run, CONFIG):
        record_start(run, CONFIG, step=0, devices=[], tasks={})
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


# Weights of other projects


def celo2() -> dict[str, Any]:
    x = lambda *shape: np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
    widths = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
    pieces = {f"w0__{k}": x(n, 8) for k, n in enumerate(widths)}
    return pieces | {"b0": x(8), "w1": x(8, 8), "b1": x(8), "w2": x(8, 3), "b2": x(3)}


@pytest.fixture
def theta_state(tmp_path: Path) -> Path:
    path = tmp_path / "theta.state"
    path.write_bytes(serialization.to_bytes({"ff_mod_stack": {"~": celo2()}}))
    return path


def test_published_weights_become_a_release(
    tmp_path: Path, theta_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--name", "theirs", "--layout", "celo2", "--rule", "celo2_base", "--dest", str(tmp_path / "releases")]
    assert cli.main(["export", str(theta_state), *arguments, "--licence", "MIT"]) == 0
    target = tmp_path / "releases" / "theirs"
    assert f"from_pretrained('{target}')" in capsys.readouterr().out
    loaded = learned_opt.load_pretrained(target)
    assert loaded.rule == learned_opt.Celo2Base()
    np.testing.assert_array_equal(loaded.theta.layers[1].w, celo2()["w1"])
    published = {
        "layout": "celo2",
        "file": "theta.state",
        "sha256": hashlib.sha256(theta_state.read_bytes()).hexdigest(),
    }
    assert loaded.card["recipe"] == {"published": published}
    assert loaded.card["licence"] == "MIT"
    assert loaded.card["data"] == loaded.card["horizons"] == loaded.card["sizes"] == "not stated by the file"
    assert str(tmp_path) not in (target / "card.json").read_text()
    params = {"w": jnp.ones((3, 2))}
    opt = learned_opt.from_pretrained(target)
    updates: Any = opt.update(params, opt.init(params), params)[0]
    assert float(jnp.abs(updates["w"]).max()) > 0


def test_licence_is_never_ours_unless_given(tmp_path: Path, theta_state: Path) -> None:
    target = export_published(theta_state, "celo2", "theirs", tmp_path / "releases")
    assert learned_opt.load_pretrained(target).card["licence"] == "unknown"
    assert isinstance(learned_opt.load_pretrained(target).rule, learned_opt.Celo2)


def test_several_files_are_named_and_summed(tmp_path: Path) -> None:
    ff = celo2()
    first = {f"w0.{k}": ff[f"w0__{k}"] for k in range(14)} | {"b0": ff["b0"]}
    rest = {f"dense_{x}.{k}": ff[f"{x}{k + 1}"] for k in range(2) for x in "wb"}
    whole = b""
    for name, part in (("a", first), ("b", rest)):
        (tmp_path / "all" / name).mkdir(parents=True)
        data = safetensors.numpy.save(part)
        (tmp_path / "all" / name / "model.safetensors").write_bytes(data)
        whole += data
    target = export_published(tmp_path / "all", "pylo", "theirs", tmp_path / "releases")
    published = learned_opt.load_pretrained(target).card["recipe"]["published"]
    assert published["file"] == "a/model.safetensors + b/model.safetensors"
    assert published["sha256"] == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "celo"], "looks like layout celo2, not celo"),
        (["--layout", "cello"], "did you mean 'celo'?"),
        (["--layout", "celo2", "--rule", "velo"], "expected celo2 or celo2_base"),
        (["--layout", "celo2", "--name", "No/good"], "expected lower-case letters"),
        ([], "is a file, expected a run: for weights of another project add --layout"),
        (["--licence", "MIT"], "--licence and --rule are for published weights"),
    ],
)
def test_bad_exports_of_published_weights(
    tmp_path: Path, theta_state: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    releases = tmp_path / "releases"
    assert cli.main(["export", str(theta_state), "--name", "x", "--dest", str(releases), *arguments]) == 2
    complaint = capsys.readouterr().err
    assert message in complaint and complaint.count("\n") == 1
    assert not releases.exists()


def test_a_name_is_taken_once(tmp_path: Path, theta_state: Path) -> None:
    export_published(theta_state, "celo2", "theirs", tmp_path)
    with pytest.raises(InputError, match="not overwritten"):
        export_published(theta_state, "celo2", "theirs", tmp_path)


@pytest.mark.parametrize(
    ("rule", "recipe", "expected"),
    [
        (learned_opt.Helm(hidden=2), {}, "learned_opt.from_pretrained('mine', num_steps=...)"),
        (learned_opt.SmallFC(hidden=2), {}, "learned_opt.from_pretrained('mine')"),
        (
            learned_opt.Celo2Base(hidden=2),
            {"learning_rate": {"low": 0.1}},
            "learned_opt.chain(learned_opt.from_pretrained('mine'), learning_rate=...)",
        ),
    ],
    ids=["steps", "plain", "rate"],
)
def test_what_is_printed_can_be_used(tmp_path: Path, rule: Any, recipe: Any, expected: str) -> None:
    """With a rate where the weights take one, and with the number of steps where the rule reads it."""
    card = dict.fromkeys(CARD_FIELDS, "") | {"recipe": recipe}
    save_pretrained(tmp_path, rule, rule.init(jax.random.key(0)), card)
    assert cli._use("mine", tmp_path) == expected
