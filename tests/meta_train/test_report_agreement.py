"""What a report draws and says is of the runs that are there, by the rules of the tables."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import report_toy

from learned_opt.errors import InputError
from meta_train import cli, report
from meta_train.evaluate import curves as windows
from meta_train.evaluate import store
from meta_train.evaluate.summary import TrainedOn
from meta_train.report import loading, svg, task_figures
from meta_train.report.page import page
from meta_train.report.task_figures import Fixed, Sensitivity


@pytest.fixture
def directory(tmp_path):
    return report_toy.write(tmp_path / "toy", tasks=2)


def lines(directory):
    return [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]


def rewrite(directory, rows):
    (directory / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def is_adam(row):
    return (row["task"], row["optimizer"]) == ("task_00", "adam")


CHANGES = {
    "a loss": (
        lambda rows: [row | {"final_train_loss": 9.0} if is_adam(row) and row["trial"] == 0 else row for row in rows],
        "other losses of adam on task_00, trial 0",
    ),
    "a divergence": (
        lambda rows: [row | {"diverged": True} if is_adam(row) and row["seed"] == 0 else row for row in rows],
        "other losses of adam on task_00, trial 0",
    ),
    "a run less": (lambda rows: rows[:-1], r"34 runs of sgd on task_01, in the summary 35"),
    "no run": (lambda rows: [], "0 runs of small-fc-digits on task_00"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_summary_of_other_runs_is_refused(directory, case, capsys):
    change, words = CHANGES[case]
    rewrite(directory, change(lines(directory)))
    with pytest.raises(InputError, match=words):
        loading.load(directory)
    assert cli.main(["report", str(directory)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not of the runs in results.jsonl" in line and f"--out {directory}" in line
    assert "run `learned-opt evaluate --optimizers" in line


def test_runs_that_the_summary_lacks_are_told(directory):
    content = json.loads((directory / "summary.json").read_text())
    del content["per_task"]["task_01"]["sgd"]
    (directory / "summary.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="35 runs of sgd on task_01 are not in the summary"):
        loading.load(directory)


def test_runs_of_others_do_not_matter(directory):
    rewrite(directory, [*lines(directory), lines(directory)[0] | {"optimizer": "later"}])
    assert loading.load(directory).names


def test_validation_losses_are_of_the_trial_that_is_best_by_them(directory):
    evaluation = loading.load(directory)
    adam = evaluation.summary.per_task["task_01"]["adam"]
    rows = lines(directory)
    lost = {row["trial"] for row in rows if (row["task"], row["optimizer"]) == ("task_01", "adam") and row["diverged"]}
    other = next(i for i in range(7) if i != adam.best_trial and i in lost)
    at = replace(adam.budgets[7], best_trial_valid=other)
    evaluation.summary.per_task["task_01"]["adam"] = replace(adam, budgets=adam.budgets | {7: at})
    found = evaluation.curves("task_01", "adam")
    there = store.read_curves(directory, "task_01", "adam")
    np.testing.assert_array_equal(found.loss, there["loss"][adam.best_trial])
    np.testing.assert_array_equal(found.valid_loss, there["valid_loss"][other])
    assert not found.diverged.any() and found.valid_diverged.any()
    assert "validation losses, drawn and listed, are of the best trial by final validation loss" in page(evaluation)


def test_curves_of_many_points_are_drawn_like_archived_ones(tmp_path):
    many = report_toy.write(tmp_path, tasks=1, steps=1000)
    path = store.curves_path(many, "task_00", "adam")
    with np.load(path) as arrays:
        content = dict(arrays)
    fine = np.repeat(np.repeat(content["loss"], 2, axis=-1), 1, axis=-1)
    np.savez(path, **(content | {"loss": fine, "step": np.arange(0, 1000, 5)}))
    found = loading.load(many).curves("task_00", "adam")
    assert found.loss.shape == (5, 100) and content["loss"].shape[-1] == 100 == windows.POINTS
    best = loading.load(many).summary.per_task["task_00"]["adam"].best_trial
    np.testing.assert_allclose(found.loss, content["loss"][best], rtol=1e-6)
    np.testing.assert_array_equal(found.step, np.arange(0, 1000, 10))


def test_failures_of_optimizers_without_a_rate_are_marked():
    """Dashed where some seeds diverged, a cross at the right edge where all did."""
    sweep = Sensitivity(np.array([0.1, 1.0]), np.array([2.0, 3.0]), np.zeros(2, int))
    fixed = {1: Fixed(1.0, 0.9, 1.1, 0), 2: Fixed(2.0, 1.9, 2.1, 1), 3: Fixed(math.nan, math.nan, math.nan, 5)}
    with svg.style():
        axes = task_figures.rates({0: sweep}, fixed)
        assert axes is not None
        of = {i: [line for line in axes.get_lines() if line.get_gid() == svg.group(i)] for i in range(4)}
        assert [line.get_linestyle() for line in of[1]] == ["-"]
        assert [line.get_linestyle() for line in of[2]] == ["--"]
        (cross,) = of[3]
        assert cross.get_marker() == "x" and cross.get_xdata()[0] == axes.get_xlim()[1]


def test_a_failed_learned_optimizer_is_in_the_figure_of_its_task(tmp_path):
    out = report_toy.write(tmp_path, tasks=8)
    _, fixed = task_figures.rates_of_task(loading.load(out), "task_07")
    assert fixed[0].lost == 1 and math.isfinite(fixed[0].mean)
    lost = report_toy.write(tmp_path / "lost", tasks=1, lost=True)
    _, fixed = task_figures.rates_of_task(loading.load(lost), "task_00")
    assert math.isnan(fixed[0].mean) and fixed[0].lost == 5


def test_what_was_meta_trained_on_is_said(directory):
    assert "not stated" in report.report(directory).read_text()
    evaluation = loading.load(directory)
    seen = {
        "small-fc-digits": TrainedOn("digits-mlp", {"task_00": ["data set sklearn_digits"]}),
        "runs/<b>&co": TrainedOn("gone", None),
    }
    text = page(replace(evaluation, summary=replace(evaluation.summary, trained_on=seen)))
    assert "small-fc-digits: digits-mlp; runs/&lt;b&gt;&amp;co: gone, a distribution not known here" in text
    assert "was made on digits-mlp, and 1 of 2 tasks are not held out from it: task_00: data set" in text
    assert text.count('class="warning"') == 1
