"""Archived results of baselines come back as they were, and only where everything agrees."""

import dataclasses
import gzip
import json
import re

import evaluate_toy
import jax
import numpy as np
import pytest

from learned_opt.errors import InputError
from meta_train.evaluate import archive, archived, contenders, evaluate, reuse, runner, store
from meta_train.evaluate import curves as curve_windows
from meta_train.evaluate import sweep as sweeping
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
def results(tmp_path_factory):
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


def read(root):
    """The archive of the toy's baseline."""
    found = archived.read(root, "toy", "sgd")
    assert found is not None
    return found


def rows(out, optimizer="sgd"):
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [line for line in lines if line["optimizer"] == optimizer]


def test_all_that_fits_is_taken_and_said(results, ran, tmp_path, capsys):
    out, root = results
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


def test_a_smaller_budget_is_a_prefix(results, ran, tmp_path):
    out, root = results
    evaluate(["sgd"], "toy", tmp_path / "out", trials=1, archive=root, **SMALL)
    assert ran == []
    strip = lambda row: {k: v for k, v in row.items() if isinstance(v, int | str)} | {"source": ""}
    assert [*map(strip, rows(tmp_path / "out"))] == [strip(row) for row in rows(out) if row["trial"] == 0]
    assert np.isfinite(store.read_curves(tmp_path / "out", "small", "sgd")["loss"]).all()


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_seeds_are_a_prefix_with_the_curves_of_what_is_best_there(results, ran, tmp_path, seeds):
    out, root = results
    evaluate(["sgd"], "toy", tmp_path / "out", trials=7, archive=root, **SMALL | {"seeds": seeds})
    assert ran == []
    pick = lambda row: (row["task"], row["trial"], row["seed"], row["diverged"])
    there = [row for row in rows(out) if row["seed"] < seeds]
    assert [*map(pick, rows(tmp_path / "out"))] == [*map(pick, there)]
    for task in ("small", "large"):
        curves = store.read_curves(tmp_path / "out", task, "sgd")["loss"]
        assert curves.shape[:2] == (7, seeds)
        # Of rows with that many seeds alone, so that a change of `chosen` cannot hide.
        known = archive.chosen([row for row in there if row["task"] == task])
        made = store.read_curves(out, task, "sgd")["loss"][known, :seeds]
        np.testing.assert_allclose(curves[known], np.where(np.isfinite(made), made, np.nan), rtol=1e-3)


def test_curves_are_kept_of_what_is_best_by_the_first_seeds():
    losses = {0: (0.2, 0.3, 0.1), 1: (0.1, 0.5, 0.2), 2: (0.3, 0.1, 0.4), 3: (0.9, 0.9, 0.9)}
    row = {"diverged": False, "mean_train_loss": 0.5, "final_train_loss": 0.5}
    made = [
        row | {"trial": i, "seed": s, "final_valid_loss": x} for i, all_ in losses.items() for s, x in enumerate(all_)
    ]
    # By one seed trial 1, by two trial 2 (0.2), by three trial 0.
    assert archive.chosen(made) == [0, 1, 2]


def test_a_longer_task_keeps_its_number_of_steps(ran, tmp_path, monkeypatch):
    small, _ = suites.suite("toy")
    monkeypatch.setattr(suites, "suite", lambda name: (Longer(small, 3),))
    evaluate(["sgd"], "toy", tmp_path / "out", trials=1, **SMALL)
    archive.write(tmp_path / "out", tmp_path / "archive")
    evaluate(["sgd"], "toy", tmp_path / "again", trials=1, archive=tmp_path / "archive", **SMALL)
    assert len(ran) == 1 and {row["steps"] for row in rows(tmp_path / "again")} == {120}


def test_archived_curves_are_means_over_equal_windows(results, tmp_path, monkeypatch):
    monkeypatch.setattr(curve_windows, "POINTS", 4)
    archive.write(results[0], tmp_path)
    curves = read(tmp_path).content["tasks"]["small"]["curves"]
    made = store.read_curves(results[0], "small", "sgd")["loss"][curves["trial"]].astype(np.float64)
    mean = made.reshape(*made.shape[:2], 4, 10).mean(axis=-1)
    assert curves["step"] == [0, 10, 20, 30] and np.isfinite(mean).any()
    np.testing.assert_allclose(np.array(curves["loss"], float), np.where(np.isfinite(mean), mean, np.nan), rtol=1e-3)


def test_curves_are_kept_of_the_trial_that_is_best_after_rounding():
    row = {"diverged": False, "seed": 0, "mean_train_loss": 0.5, "final_train_loss": 0.5}
    losses = (0.12345641, 0.12345639)  # equal to six digits: the first is chosen when they are read back
    made = [row | {"trial": i, "final_valid_loss": loss} for i, loss in enumerate(losses)]
    assert archive.chosen(made) == [0]


def test_a_task_of_other_data_runs_alone(results, ran, tmp_path, monkeypatch, capsys):
    small, large = suites.suite("toy")
    changed = dataclasses.replace(large, y=large.y + 1e-3)
    monkeypatch.setattr(suites, "suite", lambda name: (small, changed))
    evaluate(["sgd"], "toy", tmp_path / "out", trials=1, archive=results[1], **SMALL)
    assert ran == [("large", "sgd")]
    said = "archive: data or settings are not those of the archive, so baselines are trained: large"
    assert said in capsys.readouterr().err.splitlines()
    assert {row["task"]: row["source"] for row in rows(tmp_path / "out")} == {"small": "archive", "large": "run"}


def test_a_task_is_told_with_its_data():
    assert reuse.described(suites.task("digits_mlp_32")) == "digits_mlp_32 (data set sklearn_digits)"
    assert reuse.described(evaluate_toy.linear()) == "linear"


def test_a_task_that_starts_from_other_losses_runs(results):
    found = read(results[1])
    entry = found.content["tasks"]["small"]
    initial = np.array(entry["curves"]["valid_loss"], float)[0, :, 0]
    there = archived.Start(initial, np.array(entry["first_train_loss"], float)[0])
    compare = lambda start, task="small", own=entry["fingerprint"]: archived.difference(found, task, own, start)
    assert compare(there) is None
    assert compare(there._replace(initial=1.01 * initial)) == "initial losses are not those of the archive"
    other = there._replace(first=there.first * np.array([1.0, 1.01, 1.0]))
    assert compare(other) == "first training losses are not those of the archive"
    assert compare(there, own="other") == "data or settings are not those of the archive"
    assert compare(there, task="new") == "not in the archive"


def test_batches_that_a_fingerprint_cannot_see_are_told_by_the_first_loss(results, ran, tmp_path, monkeypatch, capsys):
    """The same arrays, settings and initialisations, and other rows in a batch."""
    draw = evaluate_toy.Linear.batch
    monkeypatch.setattr(evaluate_toy.Linear, "batch", lambda self, key: draw(self, jax.random.fold_in(key, 1)))
    jax.clear_caches()  # programs are found by the code's name, which did not change
    evaluate(["sgd"], "toy", tmp_path / "out", trials=1, archive=results[1], **SMALL)
    assert ran == [("small", "sgd"), ("large", "sgd")]
    said = "archive: first training losses are not those of the archive, so baselines are trained: small, large"
    assert said in capsys.readouterr().err.splitlines()
    jax.clear_caches()


def test_losses_before_training_are_those_of_a_sweep():
    task = evaluate_toy.linear()
    start = reuse.start(task, seeds=3, seed=5)
    swept = sweeping.sweep(task, contenders.baseline("sgd", 1), steps=2, seeds=3, seed=5)
    np.testing.assert_allclose(start.first, swept.losses[0, :, 0], rtol=1e-6)
    np.testing.assert_array_equal(start.initial, swept.valid_losses[0, :, 0])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 41}, "of steps 40, asked 41"),
        ({"seed": 1}, "of seed 0, asked 1"),
        ({"seeds": 4}, "of 3 seeds, asked 4"),
        ({"seeds": 2}, None),
        ({"versions": {"jax": "9.9", "optax": "0"}}, "of jax .*, here is 9.9"),
        ({"optimizers": {"sgd": {"trials": [{}] * 3}}}, "for 1, 7, 42 trials, asked 3"),
        ({"optimizers": {"sgd": {"trials": [{}]}}}, "of other trials"),
        ({}, None),
    ],
)
def test_why_an_archive_does_not_fit(results, change, words):
    out, root = results
    configuration = json.loads((out / "evaluation.json").read_text()) | change
    reason = archived.mismatch(read(root), configuration, "sgd")
    assert reason is None if words is None else re.search(words, reason)


def test_baselines_are_trained_again_on_demand(results, ran, tmp_path):
    once = {"trials": 1, "archive": results[1], **SMALL}
    evaluate(["sgd"], "toy", tmp_path / "out", **once)
    evaluate(["sgd"], "toy", tmp_path / "out", rerun_baselines=True, **once)
    assert ran == [("small", "sgd"), ("large", "sgd")]
    assert [row["source"] for row in rows(tmp_path / "out")] == ["run"] * 6
    evaluate(["sgd"], "toy", tmp_path / "out", **once)  # what was trained is there
    assert len(ran) == 2


def without(content, *path):
    """A copy of nested dictionaries without the entry at a path."""
    first, *rest = path
    inner = {} if not rest else {first: without(content[first], *rest)}
    return {key: value for key, value in content.items() if key != first} | inner


CURVES = ("tasks", "small", "curves")
DAMAGED = {
    "empty": lambda content: b"",
    "no archive": lambda content: b"nonsense",
    "cut off": lambda content: packed(content)[:-30],
    "a list": lambda content: packed([1]),
    "no steps": lambda content: packed(without(content, "steps")),
    "no versions": lambda content: packed(content | {"versions": []}),
    "no tasks": lambda content: packed(content | {"tasks": 3}),
    "no curves": lambda content: packed(without(content, *CURVES)),
    "no numbers": lambda content: packed(without(content, "tasks", "small", "mean_train_loss")),
    "few curves": lambda content: packed(without(content, *CURVES, "trial")),
}


def packed(content):
    return gzip.compress(json.dumps(content).encode())


@pytest.mark.parametrize("case", DAMAGED)
def test_an_archive_that_is_damaged_is_named(results, ran, tmp_path, case):
    file = tmp_path / "toy" / "sgd.json.gz"
    file.parent.mkdir()
    file.write_bytes(DAMAGED[case](dict(read(results[1]).content)))
    with pytest.raises(InputError, match=r"archive: .*sgd\.json\.gz is damaged .*--rerun-baselines") as caught:
        evaluate(["sgd"], "toy", tmp_path / "out", trials=1, archive=tmp_path, **SMALL)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value) and not ran
    assert archived.read(tmp_path, "toy", "adam") is None


def test_an_archive_of_another_format_is_not_used(results, ran, tmp_path, capsys):
    file = tmp_path / "toy" / "sgd.json.gz"
    file.parent.mkdir()
    file.write_bytes(packed(dict(read(results[1]).content) | {"format": "else/2"}))
    evaluate(["sgd"], "toy", tmp_path / "out", trials=1, archive=tmp_path, **SMALL)
    assert "sgd: archived results are of format else/2" in capsys.readouterr().err and len(ran) == 2


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
    assert archived.fingerprint(task) == archived.fingerprint(evaluate_toy.linear())
    assert len({archived.fingerprint(t) for t in (task, *others)}) == 5


def test_archives_of_the_package_can_be_read():
    assert len([*archived.folder().rglob("*.json.gz")]) >= 3
    for file in sorted(archived.folder().rglob("*.json.gz")):
        found = archived.read(archived.folder(), file.parent.name, file.name.removesuffix(".json.gz"))
        assert found is not None and len(found.content["trials"]) in (1, 7, 42), file
