import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from meta_train.evaluate import judge, table
from meta_train.evaluate.statistics import paired_ratio, student_t

CONFIGURATION = {"suite": "s", "steps": 10}


def rows(task, optimizer, trials, kind="baseline"):
    """`trials`: mean training losses [trial][seed], None where diverged; final losses are 1 and 2 lower."""
    rated = kind == "baseline"
    return [
        {
            "task": task,
            "optimizer": optimizer,
            "kind": kind,
            "trial": trial,
            "learning_rate": 10.0 ** (trial - 3) if rated else None,
            "seed": seed,
            "steps": 10,
            "mean_train_loss": loss,
            "final_train_loss": None if loss is None else loss - 1,
            "final_valid_loss": None if loss is None else loss - 2,
            "diverged": loss is None,
            "seconds": 0.5,
        }
        for trial, losses in enumerate(trials)
        for seed, loss in enumerate(losses)
    ]


def summarize(*groups):
    by_pair = {(group[0]["task"], group[0]["optimizer"]): group for group in groups}
    return judge.summarize(by_pair, CONFIGURATION, compile_seconds=lambda task, name: 2.0)


ADAM = rows("t", "adam", [[5.0, 6.0, 7.0], [3.0, 4.0, 5.0], [4.0, 4.0, 4.5]])
SGD = rows("t", "sgd", [[4.0, 5.0, 6.0], [7.0, 7.0, 7.5], [9.0, None, 9.0]])
MINE = rows("t", "mine", [[1.5, 2.1, 2.4]], "learned")


def test_figures_are_those_of_the_best_trial():
    adam = summarize(ADAM, SGD, MINE).per_task["t"]["adam"]
    assert (adam.trials, adam.seeds, adam.best_trial, adam.learning_rate) == (3, 3, 1, 0.01)
    assert adam.mean_train_loss == student_t([3.0, 4.0, 5.0])
    assert adam.final_train_loss == student_t([2.0, 3.0, 4.0])
    assert adam.final_valid_loss == student_t([1.0, 2.0, 3.0])
    assert [t.mean_train_loss.mean for t in adam.by_trial] == [6.0, 4.0, pytest.approx(12.5 / 3)]
    assert (adam.seconds_per_run, adam.compile_seconds) == (0.5, 2.0)


def test_the_best_rate_at_an_edge_is_flagged():
    results = summarize(ADAM, SGD, MINE, rows("t", "lion", [[9.0] * 3, [8.0] * 3])).per_task["t"]
    assert [results[name].rate_at_edge for name in ("adam", "sgd", "lion", "mine")] == [
        None,
        "lowest",
        "highest",
        None,
    ]
    single = summarize(rows("t", "adam", [[1.0, 2.0]])).per_task["t"]["adam"]
    assert single.rate_at_edge is None


def test_comparison_is_paired_with_the_best_tuned_baseline():
    results = summarize(MINE, SGD, ADAM).per_task["t"]
    mine = results["mine"].comparison
    assert mine is not None and mine.baseline == "adam"
    assert mine.ratio == paired_ratio([1.5, 2.1, 2.4], [3.0, 4.0, 5.0])
    assert mine.difference.mean == pytest.approx(-2.0)
    assert (mine.verdict, mine.unpaired) == ("better", 0)
    assert results["adam"].comparison is None
    sgd = results["sgd"].comparison  # exactly one worse on every seed
    assert sgd is not None and (sgd.baseline, sgd.verdict, sgd.difference.mean) == ("adam", "worse", 1.0)


def test_an_interval_that_holds_zero_decides_nothing():
    mine = rows("t", "mine", [[2.9, 4.2, 4.8]], "learned")
    comparison = summarize(ADAM, mine).per_task["t"]["mine"].comparison
    assert comparison is not None and comparison.verdict == "undecided"
    alone = rows("t", "mine", [[0.1]], "learned"), rows("t", "adam", [[5.0]])
    comparison = summarize(*alone).per_task["t"]["mine"].comparison
    assert comparison is not None and comparison.verdict == "undecided"  # one seed proves nothing


def test_diverged_runs_are_counted_and_never_averaged():
    group = rows("t", "adam", [[1.0, None, 1.0], [3.0, 4.0, 5.0]])
    adam = summarize(group).per_task["t"]["adam"]
    # A rate that loses a seed is not the best one, however low the others.
    assert (adam.best_trial, adam.diverged, adam.diverged_all_trials) == (1, 0, 1)
    assert (adam.by_trial[0].diverged, adam.by_trial[0].mean_train_loss) == (1, student_t([1.0, 1.0]))


def test_a_diverged_seed_forbids_better():
    mine = rows("t", "mine", [[0.1, None, 0.1, 0.2]], "learned")
    result = summarize(rows("t", "adam", [[3.0, 3.1, 3.2, 3.3]]), mine).per_task["t"]["mine"]
    comparison = result.comparison
    assert comparison is not None and comparison.difference.high is not None
    assert (result.diverged, result.mean_train_loss.n) == (1, 3)
    assert comparison.difference.high < 0  # on the seeds that are left
    assert (comparison.verdict, comparison.unpaired) == ("undecided", 1)
    assert comparison.ratio == paired_ratio([0.1, 0.1, 0.2], [3.0, 3.2, 3.3])


def test_an_optimizer_that_never_finishes_is_worse_and_has_no_figures():
    mine = rows("t", "mine", [[None, None, None]], "learned")
    summary = summarize(ADAM, mine)
    result = summary.per_task["t"]["mine"]
    assert result.mean_train_loss == student_t([])
    assert result.comparison is not None and result.comparison.verdict == "worse"
    overall = summary.overall["mine"]
    assert (overall.tasks, overall.tasks_compared, overall.tasks_diverged) == (1, 0, 1)
    assert overall.verdicts == {"better": 0, "worse": 1, "undecided": 0}


def test_no_baseline_no_comparison():
    summary = summarize(MINE)
    assert summary.per_task["t"]["mine"].comparison is None
    assert summary.overall["mine"].ratio.mean is None
    # Baselines of which no run finishes are no reference either.
    summary = summarize(MINE, rows("t", "adam", [[None] * 3]))
    assert summary.per_task["t"]["mine"].comparison is None
    assert summary.overall["adam"].best_baseline == 0


def test_overall():
    other = [
        rows("u", "adam", [[8.0, 9.0, 8.5], [4.0, 4.1, 4.2]]),
        rows("u", "sgd", [[2.0, 2.0, 2.1], [3.0, 3.0, 3.0]]),
        rows("u", "mine", [[4.0, 4.0, 4.2]], "learned"),
    ]
    summary = summarize(ADAM, SGD, MINE, *other)
    assert summary.budgets == {"adam": 3, "sgd": 3, "mine": 1}
    assert summary.seeds == [0, 1, 2]
    mine = summary.overall["mine"]
    per_task = np.exp(np.mean(np.log([[1.5 / 3, 2.1 / 4, 2.4 / 5], [2.0, 2.0, 2.0]])))
    assert mine.ratio.mean == pytest.approx(per_task)
    assert mine.ratio.low is not None and mine.ratio.low < per_task
    assert (mine.tasks, mine.runs, mine.tasks_compared) == (2, 6, 2)
    assert mine.verdicts == {"better": 1, "worse": 1, "undecided": 0}
    assert summary.overall["adam"].best_baseline == summary.overall["sgd"].best_baseline == 1
    assert summary.overall["sgd"].diverged_all_trials == 1
    assert summary.overall["sgd"].rate_at_edge == 2
    assert summary.overall["sgd"].tasks_diverged == 0


def test_a_summary_is_strict_json():
    mine = rows("t", "mine", [[None, None, None]], "learned")
    text = json.dumps(summarize(ADAM, mine).as_json(), allow_nan=False)
    there = json.loads(text)
    assert there["per_task"]["t"]["adam"]["mean_train_loss"]["n"] == 3
    assert set(there) == {"configuration", "budgets", "seeds", "per_task", "overall", "notes"}


def text(summary, width=table.PLAIN_WIDTH):
    console = Console(file=io.StringIO(), width=width)
    table.print_summary(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_table():
    lost = rows("t", "runs/[red]lost", [[None, None, None]], "learned")
    printed = text(summarize(ADAM, SGD, MINE, lost))
    lines = printed.splitlines()
    named = [next(n for n in ("mine", "adam", "sgd", "lost") if n in line) for line in lines if "/3" in line]
    assert named == ["mine", "adam", "sgd", "lost"]  # by loss, failures last
    row = {name: next(line for line in lines if name in line and "/3" in line) for name in named}
    assert "4 ± 2.5" in row["adam"] and "0.01" in row["adam"] and "best baseline" in row["adam"]
    assert "0.001 (lowest!)" in row["sgd"] and "0/3 (1/9)" in row["sgd"] and "worse" in row["sgd"]
    assert "better" in row["mine"] and "1.000" not in row["mine"]
    assert "runs/[red]lost" in row["lost"] and "3/3" in row["lost"]
    assert "3 seeds" in printed and "8.0 s in all" in printed.replace("\n", " ")


def test_table_over_tasks_and_in_a_narrow_terminal():
    renamed = [{**row, "task": "u"} for row in [*ADAM, *MINE]]
    summary = summarize(ADAM, MINE, renamed[: len(ADAM)], renamed[len(ADAM) :])
    assert "overall: 2 tasks" in text(summary)
    assert "2 / 0 / 0" in text(summary)
    assert max(map(len, text(summary, width=80).splitlines())) <= 80


def test_figures_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        student_t([1.0]).mean = 2.0  # type: ignore[misc]
