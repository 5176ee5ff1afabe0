"""From names to files, on tiny tasks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import evaluate_toy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
import learned_opt.pretrained
from learned_opt.errors import InputError, WeightsError
from meta_train.errors import RunFailed
from meta_train.evaluate import EvaluateArgs, budget, contenders, evaluate, run, runner, store
from meta_train.evaluate import sweep as sweeping
from tasks import suites

OPTIMIZERS = ["decayed_sgd", "sgd"]
SMALL = {"steps": 40, "seeds": 3, "trials": 3, "jobs": 1}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    evaluate_toy.install(monkeypatch)


@pytest.fixture
def no_sweep(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("nothing was to be run")

    monkeypatch.setattr(runner, "sweep", fail)


@pytest.fixture(scope="module")
def killed_and_finished(tmp_path_factory):
    """An evaluation that is killed as soon as it has a result, and the same one again: (results at the kill, out)."""
    directory = tmp_path_factory.mktemp("evaluation")
    out = directory / "out"
    program = (
        "import pytest; from pathlib import Path; from meta_train.evaluate import evaluate\n"
        "import evaluate_toy\n"
        "evaluate_toy.install(pytest.MonkeyPatch())\n"
        f"evaluate({OPTIMIZERS}, 'toy', Path({str(out)!r}), **{SMALL})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (directory / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=log)
    deadline = time.monotonic() + 200
    while not (out / "results.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (directory / "log").read_text()
    at_the_kill = (out / "results.jsonl").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        evaluate_toy.install(patch)
        evaluate(OPTIMIZERS, "toy", out, **SMALL)
    return at_the_kill, out


@pytest.fixture
def finished(killed_and_finished):
    return killed_and_finished[1]


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def rows(out):
    """The lines without what the clock put there."""
    return rows_of((out / "results.jsonl").read_bytes().splitlines())


def rows_of(lines):
    lines = [json.loads(line) for line in lines]
    assert all(line.pop("seconds") > 0 for line in lines)
    return lines


def without_seconds(value):
    """A summary without what the clock put there."""
    if isinstance(value, dict):
        return {key: without_seconds(inner) for key, inner in value.items() if "seconds" not in key}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def test_one_line_per_training_run(finished):
    lines = rows(finished)
    keys = [(r["task"], r["optimizer"], r["trial"], r["seed"]) for r in lines]
    trials = {"decayed_sgd": 1, "sgd": 3}
    assert keys == [
        (task, name, trial, seed)
        for task in ("small", "large")
        for name in OPTIMIZERS
        for trial in range(trials[name])
        for seed in range(3)
    ]
    promised = {
        "task",
        "optimizer",
        "trial",
        "seed",
        "steps",
        "final_train_loss",
        "final_valid_loss",
        "diverged",
    }
    assert promised < set(lines[0])
    assert all(r["steps"] == 40 for r in lines)
    settings = {(r["optimizer"], r["trial"], r["learning_rate"], r["schedule"], r["weight_decay"]) for r in lines}
    tuned = {("sgd", i, rate, "constant", 0.0) for i, rate in enumerate((0.1, 0.3, 0.03))}
    assert settings == {("decayed_sgd", 0, None, None, None), *tuned}
    assert all(r["source"] == "run" and "velodrome_speedup" not in r for r in lines)


def test_lines_agree_with_the_curves(finished):
    for row in rows(finished):
        with np.load(store.curves_path(finished, row["task"], row["optimizer"])) as curves:
            loss = curves["loss"][row["trial"], row["seed"]]
            valid = curves["valid_loss"][row["trial"], row["seed"]]
            assert curves["valid_step"].tolist() == list(range(0, 41, 4))
            assert (curves["param_bytes"], curves["state_bytes"]) == (12, 4 if row["kind"] == "learned" else 16)
        blown_up = row["final_train_loss"] is not None and row["final_train_loss"] > 2 * row["first_train_loss"]
        assert row["diverged"] == (not np.isfinite(loss).all() or blown_up)
        if not row["diverged"]:
            assert row["diverged_at"] is None
            assert row["mean_train_loss"] == pytest.approx(loss.mean(dtype=np.float64))
            assert row["first_train_loss"] == pytest.approx(loss[0])
            assert row["final_valid_loss"] == pytest.approx(valid[-1])
            assert row["final_train_loss"] < row["first_train_loss"] or row["optimizer"] == "sgd"


def test_divergence_is_flagged_and_counted(finished):
    large = [r for r in rows(finished) if r["task"] == "large"]
    assert all(r["diverged"] and r["final_valid_loss"] is None and 0 < r["diverged_at"] < 40 for r in large)
    summary = json.loads((finished / "summary.json").read_text())
    sgd = summary["per_task"]["large"]["sgd"]
    assert (sgd["diverged"], sgd["diverged_all_trials"], sgd["mean_train_loss"]["n"]) == (3, 9, 0)
    (blown_up,) = (r for r in rows(finished) if r["diverged"] and r["final_train_loss"] is not None)
    assert (blown_up["task"], blown_up["optimizer"], blown_up["diverged_at"]) == ("small", "sgd", None)
    assert summary["overall"]["sgd"]["diverged_all_trials"] == 10
    assert summary["overall"]["sgd"]["tasks_diverged"] == 1


def test_summary(finished):
    summary = json.loads((finished / "summary.json").read_text())
    small = summary["per_task"]["small"]
    losses = [r["mean_train_loss"] for r in rows(finished) if (r["task"], r["optimizer"]) == ("small", "decayed_sgd")]
    figure = small["decayed_sgd"]["mean_train_loss"]
    assert figure["mean"] == pytest.approx(np.mean(losses))
    assert figure["low"] < figure["mean"] < figure["high"] and figure["n"] == 3
    assert small["decayed_sgd"]["comparison"]["baseline"] == "sgd"
    assert summary["budgets"] == {"decayed_sgd": 1, "sgd": 3}
    assert summary["seeds"] == [0, 1, 2]
    assert summary["configuration"]["versions"]["jax"]
    assert small["sgd"]["compile_seconds"] > 0


def test_the_command_prints_tables_and_reads_what_is_there(copy, no_sweep, capsys):
    before = (copy / "results.jsonl").read_bytes()
    (copy / "summary.json").unlink()
    args = EvaluateArgs(optimizers="decayed_sgd, sgd", suite="toy", out=copy, **SMALL)
    assert run(args) == 0
    printed = capsys.readouterr().out
    assert "small: 40 steps" in printed and "large: 40 steps" in printed and "overall: 2 tasks" in printed
    assert str(copy / "results.jsonl") in printed.replace("\n", "")
    assert (copy / "results.jsonl").read_bytes() == before
    assert (copy / "summary.json").exists()


def test_what_a_killed_evaluation_finished_is_not_run_again(killed_and_finished):
    at_the_kill, out = killed_and_finished
    done = b"".join(at_the_kill.splitlines(keepends=True)[:3])  # the first group at least
    assert done.endswith(b"\n") and len(at_the_kill) < len((out / "results.jsonl").read_bytes())
    assert (out / "results.jsonl").read_bytes().startswith(done)


def test_results_are_deterministic_and_do_not_depend_on_what_else_runs(copy):
    """The group that the killed process ran, run again by this one, after the others."""
    lines = (copy / "results.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "results.jsonl").write_bytes(b"".join(lines[3:]))
    before, curves = rows_of(lines), store.curves_path(copy, "small", "decayed_sgd")
    with np.load(curves) as there:
        loss = there["loss"]
    summary = json.loads((copy / "summary.json").read_text())
    evaluate(OPTIMIZERS, "toy", copy, **SMALL)
    assert rows(copy) == before[3:] + before[:3]
    with np.load(curves) as there:
        np.testing.assert_array_equal(there["loss"], loss)
    again = json.loads((copy / "summary.json").read_text())
    assert without_seconds(again) == without_seconds(summary)


def test_optimizers_are_added_and_may_be_a_part_of_those_there(copy, monkeypatch):
    before = (copy / "results.jsonl").read_bytes()
    summary = evaluate(["adam"], "toy", copy, **SMALL)
    assert list(summary.configuration["optimizers"]) == ["adam"] == list(summary.per_task["small"])
    assert (copy / "results.jsonl").read_bytes().startswith(before)
    assert len(rows(copy)) == len(before.splitlines()) + 2 * 9
    assert set(json.loads((copy / "evaluation.json").read_text())["optimizers"]) == {"adam", *OPTIMIZERS}
    monkeypatch.setattr(runner, "sweep", None)
    again = evaluate(["adam", "sgd"], "toy", copy, **SMALL)
    assert set(again.per_task["large"]) == {"adam", "sgd"}


def test_results_do_not_depend_on_the_number_of_jobs(finished, tmp_path):
    evaluate(OPTIMIZERS, "toy", tmp_path / "out", **{**SMALL, "jobs": 3})
    key = lambda row: (row["task"], row["optimizer"], row["trial"], row["seed"])
    assert sorted(rows(tmp_path / "out"), key=key) == sorted(rows(finished), key=key)


def test_a_failure_in_one_of_several_jobs_keeps_what_was_finished(tmp_path, monkeypatch):
    real = runner.sweep

    def failing(task, contender, **settings):
        if (task.name, contender.name) == ("large", "sgd"):
            raise ZeroDivisionError
        return real(task, contender, **settings)

    monkeypatch.setattr(runner, "sweep", failing)
    with pytest.raises(ZeroDivisionError):
        evaluate(OPTIMIZERS, "toy", tmp_path / "out", **{**SMALL, "jobs": 2})
    monkeypatch.undo()
    evaluate_toy.install(monkeypatch)
    evaluate(OPTIMIZERS, "toy", tmp_path / "out", **SMALL)
    assert len(rows(tmp_path / "out")) == 24


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_sweep_under_way_when_another_fails_is_kept(monkeypatch, error):
    begun, failed, real = threading.Event(), threading.Event(), runner.sweep

    def sweep(task, contender, **settings):
        if contender.name == "decayed_sgd":
            assert begun.wait(60)
            failed.set()
            raise error
        begun.set()
        assert failed.wait(60)
        return real(task, contender, **settings)

    monkeypatch.setattr(runner, "sweep", sweep)
    (task, *_), found = suites.suite("toy"), []
    pairs = [(task, contenders.resolve(name, trials=1)) for name in OPTIMIZERS]
    with pytest.raises(error):
        for _, contender, _ in runner.sweeps(pairs, runner.Asked(steps=5, seeds=2, seed=0), jobs=2):
            found.append(contender.name)
    assert found == ["sgd"]


def test_another_configuration_is_refused(copy, no_sweep):
    before = (copy / "results.jsonl").read_bytes()
    with pytest.raises(InputError, match="steps: 40 there, 41 asked"):
        evaluate(OPTIMIZERS, "toy", copy, **{**SMALL, "steps": 41})
    assert (copy / "results.jsonl").read_bytes() == before


def test_other_weights_under_the_same_name_are_another_configuration(copy, no_sweep, monkeypatch):
    evaluate_toy.install(monkeypatch, rate=0.2)
    with pytest.raises(InputError, match=r"decayed_sgd\.theta_sha256"):
        evaluate(OPTIMIZERS, "toy", copy, **SMALL)


@pytest.mark.parametrize(
    "optimizers, words",
    [
        (["adm"], ["adm", "did you mean adam", "learned-opt list optimizers"]),
        (["decayed_sdg"], ["did you mean decayed_sgd"]),
        (["runs/nothing-like-it"], ["neither a directory", "learned-opt list optimizers"]),
        (["adam", "sgd", " adam"], ["'adam' is given twice"]),
        ([""], ["none given"]),
        ([], ["none given"]),
    ],
)
def test_bad_names(optimizers, words, tmp_path):
    with pytest.raises(InputError) as caught:
        evaluate(optimizers, "toy", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_one_directory_under_two_names_is_given_twice(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is given twice"):
        evaluate(["run", "./run/"], "toy", tmp_path / "out")


@pytest.mark.parametrize("field, value", [("steps", 0), ("seeds", 0), ("trials", 43), ("jobs", 0), ("seed", -2)])
def test_bad_numbers(field, value, tmp_path):
    with pytest.raises(InputError, match=f"{field}: {value}, expected"):
        evaluate(["adam"], "toy", tmp_path / "out", **{field: value})


def test_a_full_disk_fails_and_leaves_what_was_finished(copy, monkeypatch):
    lines = (copy / "results.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "results.jsonl").write_bytes(b"".join(lines[:-9]))  # the last group is missing

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "_add", full)
    with pytest.raises(RunFailed, match=r"No space left on device.*the same command resumes"):
        evaluate(OPTIMIZERS, "toy", copy, **SMALL)
    assert (copy / "results.jsonl").read_bytes() == b"".join(lines[:-9])


def test_a_directory_of_weights_is_loaded(tmp_path, monkeypatch):
    monkeypatch.undo()
    rule = learned_opt.SmallFC(hidden=3)
    theta = rule.init(jax.random.key(7))
    card = {field: {} for field in learned_opt.pretrained.CARD_FIELDS}
    learned_opt.pretrained.save_pretrained(tmp_path / "run", rule, theta, card)
    (contender,) = contenders.resolve_all([f"{tmp_path}/run/"], trials=7)
    assert (contender.name, contender.kind, contender.trials) == (f"{tmp_path}/run", "learned", ({},))
    assert contender.identity(9)["theta_sha256"] == contenders.fingerprint(theta) != contenders.fingerprint(None)
    # It is an optimizer of the task, traced and all.
    assert sweeping.sizes(evaluate_toy.linear(), contender, 4).run > 0
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError):
        contenders.resolve_all([f"{tmp_path}/run"], trials=7)


def test_who_is_tuned_is_who_takes_a_rate(tmp_path, monkeypatch):
    """A direction without a rate and a rate on top of a schedule of its own are refused, with what was meant."""
    monkeypatch.undo()
    card = {field: {} for field in learned_opt.pretrained.CARD_FIELDS}
    for rule, recipe in ((learned_opt.Celo2Base(hidden=2), {"learning_rate": {}}), (learned_opt.Helm(hidden=2), {})):
        theta = rule.init(jax.random.key(0))
        learned_opt.pretrained.save_pretrained(tmp_path / rule.name, rule, theta, card | {"recipe": recipe})
    with pytest.raises(InputError, match=r"celo2_base' is a direction .* expected '.*celo2_base\+tuned'"):
        contenders.resolve_all([f"{tmp_path}/celo2_base"], trials=1)
    with pytest.raises(InputError, match=r"helm\+tuned': helm sets its own rate and schedule, expected '.*helm'"):
        contenders.resolve_all([f"{tmp_path}/helm+tuned"], trials=1)


def test_a_learned_direction_is_tuned_as_a_baseline_is(tmp_path, monkeypatch):
    """Its own trials; the step of each is the rate at that time times direction and decay, which spares vectors."""
    monkeypatch.undo()
    rule = learned_opt.Celo2Base(hidden=2, step_mult=1.0)
    card = {field: {} for field in learned_opt.pretrained.CARD_FIELDS}
    learned_opt.pretrained.save_pretrained(tmp_path / "run", rule, rule.expert(jax.random.key(0)), card)
    (contender,) = contenders.resolve_all([f"{tmp_path}/run+tuned"], trials=42)
    assert contender.kind == "learned"
    assert contender.trials == budget.trials(1e-2, (0.0, 0.1), 42)
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones((2,))}
    gradient = jax.tree.map(jnp.ones_like, params)
    plain = rule.transform(contender.theta)
    direction, _ = plain.update(gradient, plain.init(params), params)
    settings = {"learning_rate": 0.03, "schedule": 2, "weight_decay": 0.1}
    opt = contender.make(contender.theta, settings, 10)
    state = opt.init(params)
    for t in range(2):
        steps, state = opt.update(gradient, state, params)
        if t == 0:
            np.testing.assert_allclose(steps["w"], 0.03 * (direction["w"] - 0.1 * params["w"]), rtol=1e-5)
            np.testing.assert_allclose(steps["b"], 0.03 * direction["b"], rtol=1e-5)
    assert float(steps["b"][0] / direction["b"][0]) == pytest.approx(0.03 * 0.9, rel=0.05)
