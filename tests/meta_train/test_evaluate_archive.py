"""Archived results of baselines come back as they were, and only where everything agrees."""

import dataclasses
import io
import json
import re

import evaluate_toy
import numpy as np
import pytest

from learned_opt.errors import InputError
from meta_train.evaluate import archive, evaluate, runner, store, velodrome
from meta_train.evaluate.summary import Summary
from tasks import suites
from tasks.longer import Longer

SMALL = {"steps": 40, "seeds": 3, "jobs": 1}
pytestmark = pytest.mark.quick_compilation


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    install(monkeypatch)


def install(patch):
    """The toy suite, without the figures, which are not the matter here."""
    evaluate_toy.install(patch)
    empty = Summary(**{f.name: [] if f.name == "seeds" else {} for f in dataclasses.fields(Summary)})
    patch.setattr(runner, "summarize", lambda *args, **kwargs: empty)


@pytest.fixture(scope="module")
def archived(tmp_path_factory):
    """An evaluation of seven trials, and its archive: (out, root)."""
    folder = tmp_path_factory.mktemp("archived")
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        evaluate(["sgd", "decayed_sgd"], "toy", folder / "out", trials=7, **SMALL)
    (file,) = archive.write(folder / "out", folder / "archive")
    assert file == folder / "archive" / "toy" / "sgd.json.gz"
    yield folder / "out", folder / "archive"


@pytest.fixture
def ran(monkeypatch):
    """Pairs (task, optimizer) that were trained."""
    pairs, real = [], runner.sweep

    def sweep(task, contender, **settings):
        pairs.append((task.name, contender.name))
        return real(task, contender, **settings)

    monkeypatch.setattr(runner, "sweep", sweep)
    return pairs


def rows(out, optimizer="sgd"):
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [line for line in lines if line["optimizer"] == optimizer]


def test_all_that_fits_is_taken_and_said(archived, ran, tmp_path, capsys):
    out, root = archived
    evaluate(["sgd"], "toy", tmp_path / "out", trials=7, archive=root, **SMALL)
    assert ran == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("sgd: archived results (jax ") and "2 of 2 tasks" in said[0]
    for found, made in zip(rows(tmp_path / "out"), rows(out), strict=True):
        assert found.keys() == made.keys() and (found["source"], made["source"]) == ("archive", "run")
        for field, value in made.items():
            if field not in ("source", "seconds"):
                close = isinstance(value, float)
                assert found[field] == (pytest.approx(value, rel=1e-5) if close else value), field
    for task in ("small", "large"):
        found, made = (store.read_curves(o, task, "sgd") for o in (tmp_path / "out", out))
        known = archive.chosen([row for row in rows(out) if row["task"] == task])
        assert np.isnan(np.delete(found["loss"], known, axis=0)).all()
        assert found["loss"].shape == made["loss"].shape  # 40 steps need no coarser curve
        finite = np.where(np.isfinite(made["loss"][known]), made["loss"][known], np.nan)
        np.testing.assert_allclose(found["loss"][known], finite, rtol=1e-3)
        np.testing.assert_array_equal(found["valid_step"], made["valid_step"])
        assert found["state_bytes"] == made["state_bytes"]


def test_a_smaller_budget_is_a_prefix(archived, ran, tmp_path):
    out, root = archived
    evaluate(["sgd"], "toy", tmp_path / "out", trials=1, archive=root, **SMALL)
    assert ran == []
    strip = lambda row: {k: v for k, v in row.items() if isinstance(v, int | str)} | {"source": ""}
    assert [*map(strip, rows(tmp_path / "out"))] == [strip(row) for row in rows(out) if row["trial"] == 0]
    assert np.isfinite(store.read_curves(tmp_path / "out", "small", "sgd")["loss"]).all()


def test_a_longer_task_keeps_its_number_of_steps(ran, tmp_path, monkeypatch):
    small, _ = suites.suite("toy")
    monkeypatch.setattr(suites, "suite", lambda name: (Longer(small, 3),))
    evaluate(["sgd"], "toy", tmp_path / "out", trials=1, **SMALL)
    archive.write(tmp_path / "out", tmp_path / "archive")
    evaluate(["sgd"], "toy", tmp_path / "again", trials=1, archive=tmp_path / "archive", **SMALL)
    assert len(ran) == 1 and {row["steps"] for row in rows(tmp_path / "again")} == {120}


def test_archived_curves_are_means_over_equal_windows(archived, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "POINTS", 4)
    archive.write(archived[0], tmp_path)
    curves = archive.read(tmp_path, "toy", "sgd")["tasks"]["small"]["curves"]
    made = store.read_curves(archived[0], "small", "sgd")["loss"][curves["trial"]].astype(np.float64)
    mean = made.reshape(*made.shape[:2], 4, 10).mean(axis=-1)
    assert curves["step"] == [0, 10, 20, 30] and np.isfinite(mean).any()
    np.testing.assert_allclose(archive._floats(curves["loss"]), np.where(np.isfinite(mean), mean, np.nan), rtol=1e-3)


def test_curves_are_kept_of_the_trial_that_is_best_after_rounding():
    row = {"diverged": False, "seed": 0, "mean_train_loss": 0.5, "final_train_loss": 0.5}
    losses = (0.12345641, 0.12345639)  # equal to six digits: the first is chosen when they are read back
    made = [row | {"trial": i, "final_valid_loss": loss} for i, loss in enumerate(losses)]
    assert archive.chosen(made) == [0]


def test_a_task_of_other_data_runs_alone(archived, ran, tmp_path, monkeypatch):
    small, large = suites.suite("toy")
    changed = dataclasses.replace(large, y=large.y + 1e-3)
    monkeypatch.setattr(suites, "suite", lambda name: (small, changed))
    evaluate(["sgd"], "toy", tmp_path / "out", trials=1, archive=archived[1], **SMALL)
    assert ran == [("large", "sgd")]
    assert {row["task"]: row["source"] for row in rows(tmp_path / "out")} == {"small": "archive", "large": "run"}


def test_a_task_with_other_initial_losses_runs(archived):
    found = archive.read(archived[1], "toy", "sgd")
    entry = found["tasks"]["small"]
    initial = np.array(entry["curves"]["valid_loss"])[0, :, 0]
    assert archive.take(found, "small", 7, entry["fingerprint"], initial) is not None
    assert archive.take(found, "small", 7, entry["fingerprint"], 1.01 * initial) is None
    assert archive.take(found, "small", 7, "other", initial) is None
    assert archive.take(found, "new", 7, entry["fingerprint"], initial) is None


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 41}, "steps 40, asked 41"),
        ({"seed": 1}, "seed 0, asked 1"),
        ({"versions": {"jax": "9.9", "optax": "0"}}, "of jax .*, here is 9.9"),
        ({"optimizers": {"sgd": {"trials": [{}] * 3}}}, "for 1, 7, 42 trials, asked 3"),
        ({"optimizers": {"sgd": {"trials": [{}]}}}, "of other trials"),
        ({}, None),
    ],
)
def test_why_an_archive_does_not_fit(archived, change, words):
    out, root = archived
    configuration = json.loads((out / "evaluation.json").read_text()) | change
    reason = archive.mismatch(archive.read(root, "toy", "sgd"), configuration, "sgd")
    assert reason is None if words is None else re.search(words, reason)


def test_baselines_are_trained_again_on_demand(archived, ran, tmp_path):
    once = {"trials": 1, "archive": archived[1], **SMALL}
    evaluate(["sgd"], "toy", tmp_path / "out", **once)
    evaluate(["sgd"], "toy", tmp_path / "out", rerun_baselines=True, **once)
    assert ran == [("small", "sgd"), ("large", "sgd")]
    assert [row["source"] for row in rows(tmp_path / "out")] == ["run"] * 6
    evaluate(["sgd"], "toy", tmp_path / "out", **once)  # what was trained is there
    assert len(ran) == 2


def test_an_archive_that_is_damaged_is_none(tmp_path):
    (tmp_path / "toy").mkdir()
    for content in (b"", b"nonsense"):
        (tmp_path / "toy" / "sgd.json.gz").write_bytes(content)
        assert archive.read(tmp_path, "toy", "sgd") is None
    assert archive.read(tmp_path, "toy", "adam") is None


def test_only_a_finished_evaluation_is_archived(tmp_path):
    with pytest.raises(InputError, match="no readable evaluation"):
        archive.write(tmp_path, tmp_path / "archive")


def test_fingerprints_tell_names_settings_shapes_and_data_apart():
    task = evaluate_toy.linear()
    others = [
        evaluate_toy.linear("other"),
        dataclasses.replace(task, loss_cap=5.0),
        dataclasses.replace(task, x=task.x + 1e-6),
        dataclasses.replace(task, x=task.x[:-1], y=task.y[:-1]),
    ]
    assert archive.fingerprint(task) == archive.fingerprint(evaluate_toy.linear())
    assert len({archive.fingerprint(t) for t in (task, *others)}) == 5


def test_archives_of_the_package_can_be_read():
    for file in sorted(archive.folder().rglob("*.json.gz")):
        found = archive.read(archive.folder(), file.parent.name, file.name.removesuffix(".json.gz"))
        assert found is not None and len(found["trials"]) in (1, 7, 42), file


def npy(value):
    """The bytes of a file of one array."""
    np.save(file := io.BytesIO(), value)
    return file.getvalue()


CURVES = {
    "task": np.array(["A", "B"]),
    "steps": np.array([0, 50_000, 100_000], np.float32),
    "loss": np.array([[4.0, 2.0, 1.0], [3.0, 1.0, 1.0]], np.float32),
}


@pytest.mark.parametrize(
    "task, loss, expected",
    [
        ("A", 5.0, 0.0),  # worse than before training
        ("A", 3.0, 25.0),  # halfway to 50,000
        ("A", 1.5, 75.0),
        ("A", 0.5, 100.0),  # never reached: clipped
        ("B", 1.0, 50.0),  # reached at 50,000 already
        ("C", 1.0, None),
        ("A", None, None),
    ],
)
def test_speed_up_over_published_curves(task, loss, expected, tmp_path):
    np.savez(tmp_path / "curves.npz", **CURVES)
    assert velodrome.speed_up(velodrome.envelope(tmp_path / "curves.npz"), task, loss, 1000) == expected


def test_rows_of_the_suite_have_their_speed_up(archived, ran, tmp_path, monkeypatch):
    np.savez(tmp_path / "curves.npz", **(CURVES | {"task": np.array(["small", "B"])}))
    more = {"trials": 1, "velodrome_baselines": tmp_path / "curves.npz", **SMALL}
    evaluate(["decayed_sgd"], "velodrome", tmp_path / "out", **more)
    speed_ups = {row["task"]: row["velodrome_speedup"] for row in rows(tmp_path / "out", "decayed_sgd")}
    assert speed_ups == {"small": 100_000 / 40, "large": None}
    evaluate(["decayed_sgd"], "velodrome", tmp_path / "out", **more)
    assert len(ran) == 2


@pytest.mark.parametrize("content", [None, b"nothing", b"PK\x03\x04cut off", npy(3)])
def test_published_curves_that_cannot_be_read(content, tmp_path):
    if content is not None:
        (tmp_path / "curves.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"velodrome-baselines: cannot read .*expected an \.npz") as caught:
        velodrome.envelope(tmp_path / "curves.npz")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="not given"):
        velodrome.envelope(None)
