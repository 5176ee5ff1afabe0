"""Scores on the published scale, from the curves to the tables."""

import io
import json
import re

import evaluate_toy
import numpy as np
import pytest
import report_toy
from judge_toy import ADAM, MINE, SGD, rows, summarize
from rich.console import Console

from learned_opt.errors import InputError
from meta_train import report
from meta_train.evaluate import evaluate, runner, table, velodrome
from meta_train.evaluate.aggregate import interquartile_mean
from meta_train.evaluate.statistics import Figure, student_t

SMALL = {"steps": 40, "seeds": 3, "jobs": 1, "trials": 1}
pytestmark = pytest.mark.quick_compilation


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


@pytest.fixture
def toy(monkeypatch):
    evaluate_toy.install(monkeypatch)


def test_rows_of_the_suite_and_the_summary_have_their_speed_up(toy, tmp_path, monkeypatch):
    np.savez(tmp_path / "curves.npz", **(CURVES | {"task": np.array(["small", "B"])}))
    more = {"velodrome_baselines": tmp_path / "curves.npz", **SMALL}
    evaluate(["decayed_sgd"], "velodrome", tmp_path / "out", **more)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {row["task"]: row["velodrome_speedup"] for row in lines} == {"small": 100_000 / 40, "large": None}
    monkeypatch.setattr(runner, "sweep", None)
    summary = evaluate(["decayed_sgd"], "velodrome", tmp_path / "out", **more)
    at = {task: results["decayed_sgd"].budgets[1].published for task, results in summary.per_task.items()}
    assert at == {"small": Figure(2500.0, 2500.0, 2500.0, 3), "large": None}  # which has no published curve
    assert summary.overall["decayed_sgd"].budgets[1].published == Figure(2500.0, None, None, 1)


def test_published_curves_are_refused_where_no_task_has_any(toy, tmp_path):
    with pytest.raises(InputError, match="suite 'toy' has no published curves, expected --suite velodrome; leave"):
        evaluate(["decayed_sgd"], "toy", tmp_path / "out", velodrome_baselines=tmp_path / "curves.npz", **SMALL)
    assert not (tmp_path / "out").exists()


def scored(group, speed_ups):
    """Rows with a speed-up, by trial and seed."""
    return [row | {"velodrome_speedup": speed_ups[row["trial"]][row["seed"]]} for row in group]


NUMBERS = [1.0, 2.0, 3.0]
GROUPS = [
    [{**row, "task": f"task_{k}"} for row in group]
    for k in range(5)
    for group in (
        scored(ADAM, [[9.0] * 3, [x * (k + 1) for x in NUMBERS], [9.0] * 3]),  # trial 1 is the best
        scored(SGD, [[0.0, 1.0, 2.0], [5.0] * 3, [5.0] * 3]),  # trial 0 is
        scored(MINE, [[2.0] * 3]),
        scored(rows("t", "lost", [[1.0, None, 1.0]], "learned"), [[4.0, None, 4.0]]),
    )
]
"""Five tasks; published speed-ups of the best trial of adam of 2 to 10."""


def test_over_seeds_and_over_tasks():
    summary = summarize(*GROUPS)
    at = {name: result.budgets[3].published for name, result in summary.per_task["task_1"].items()}
    lost = Figure(0.0, None, None, 3)
    means = {"adam": student_t([2.0, 4.0, 6.0]), "sgd": student_t([0.0, 1.0, 2.0]), "mine": student_t([2.0] * 3)}
    assert at == means | {"lost": lost}
    over = {name: o.budgets[3].published for name, o in summary.overall.items()}
    assert over["adam"] == interquartile_mean([2.0, 4.0, 6.0, 8.0, 10.0])
    assert over["adam"] is not None and over["adam"].mean == 6.0 and over["adam"].low is not None
    assert over["lost"] == Figure(0.0, 0.0, 0.0, 5)
    first = summary.overall["adam"].budgets[1].published
    assert first is not None and first.mean == 9.0  # the default has a budget of its own


def test_without_published_curves_there_is_no_figure():
    summary = summarize(ADAM, MINE)
    assert summary.per_task["t"]["adam"].budgets[3].published is None
    assert summary.overall["adam"].budgets[3].published is None


def printed(summary):
    console = Console(file=io.StringIO(), width=300)
    table.print_summary(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_have_a_column():
    text = printed(summarize(*GROUPS))
    assert text.count("published") == 5 + 1 + 2  # a column of each task, one over all, and what it means
    overall = text[text.index("overall: 5 tasks") :]
    (line,) = re.findall(r"│ adam .*", overall)
    assert re.search(r"│ +6 \[[\d.]+, [\d.]+\] of 5 │", line)
    assert "published" not in printed(summarize(ADAM, MINE))


def test_the_report_has_a_section(tmp_path):
    out = report_toy.write(tmp_path, tasks=2)
    assert "On the published scale" not in report.report(out).read_text()
    content = json.loads((out / "summary.json").read_text())
    figure = {"mean": 12.5, "low": 10.0, "high": 15.0, "n": 5}
    content["per_task"]["task_00"]["adam"]["budgets"]["7"]["published"] = figure
    content["overall"]["adam"]["budgets"]["7"]["published"] = figure | {"mean": 7.25, "n": 1}
    (out / "summary.json").write_text(json.dumps(content))
    text = report.report(out).read_text()
    section = text[text.index('<section id="published">') :]
    section = section[: section.index("</section>")]
    assert "12.5" in section and "7.25" in section and "task_00" in section and "task_01" not in section


def test_published_curves_that_do_not_fit_together(tmp_path):
    for loss in (np.ones((1, 3)), np.ones(3), np.ones((2, 2))):
        np.savez(tmp_path / "curves.npz", task=["a", "b"], steps=np.arange(3), loss=loss)
        with pytest.raises(InputError, match=r"cannot read .*loss of shape .*, 2 tasks and steps of shape \(3,\)"):
            velodrome.envelope(tmp_path / "curves.npz")


@pytest.mark.parametrize("content", [None, b"nothing", b"PK\x03\x04cut off", npy(3)])
def test_published_curves_that_cannot_be_read(content, tmp_path):
    if content is not None:
        (tmp_path / "curves.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"velodrome-baselines: cannot read .*expected an \.npz") as caught:
        velodrome.envelope(tmp_path / "curves.npz")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="not given"):
        velodrome.envelope(None)
