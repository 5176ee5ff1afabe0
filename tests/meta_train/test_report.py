"""The report as a document: whole, closed in itself, and saying what the evaluation says."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import report_toy

from learned_opt.errors import InputError
from meta_train import cli, report
from meta_train.evaluate import store
from meta_train.evaluate.statistics import Figure
from meta_train.report import loading, overview, overview_figures, svg, tables, task_figures
from meta_train.report.page import page

VOID = {"meta", "link", "input", "br"}


class Document(HTMLParser):
    """Elements of a page, with the text in each table cell."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.tags, self.links, self.outside = [], [], [], [], []
        self.rows, self.section, self.words = {}, None, []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        for name in ("href", "src", "xlink:href"):
            target = values.get(name) or ""
            (self.links if target.startswith("#") else self.outside).extend([target] if target else [])
        if tag == "section":
            self.section = values["id"]
        elif tag == "tr" and "tbody" in self.open:
            self.rows.setdefault(self.section, []).append([])
        elif tag in ("td", "th") and "tbody" in self.open:
            self.rows[self.section][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)
        if "td" in self.open or ("th" in self.open and "tbody" in self.open):
            self.rows[self.section][-1][-1] += data


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return report_toy.write(tmp_path_factory.mktemp("report") / "toy", tasks=8)


@pytest.fixture(scope="module")
def text(directory):
    return report.report(directory).read_text()


@pytest.fixture(scope="module")
def document(text):
    return Document(text)


def test_nothing_comes_from_outside(text, document):
    assert document.outside == ["data:,"]
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:url\(|@import|https?:)(?!#)[^\")]*", re.sub(r' xmlns(:\w+)?="[^"]*"', "", text))


def test_identities_are_unique_and_links_lead_somewhere(text, document):
    assert len(document.ids) == len(set(document.ids))
    assert document.links and {link[1:] for link in document.links} <= set(document.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(document.ids)


def test_every_task_has_its_three_figures(document):
    assert document.tags.count("svg") >= 3 * 8
    assert {f"task-{k}" for k in range(8)} <= set(document.ids)


def test_names_are_text(document):
    assert "runs/<b>&co" in document.words
    assert "b" not in document.tags


def test_colours_are_those_of_the_page(text):
    assert "#f1e0" not in text, "a stand-in was left"
    assert "var(--c0)" in text and "--c7:" in text and "prefers-color-scheme: dark" in text


def test_size_of_a_full_suite(text):
    """34 tasks of 8 optimizers: what a task and an optimizer need here, 272 times."""
    per_task = re.findall(r'<div class="task".*?</details>', text, re.DOTALL)
    assert len(per_task) == 8
    assert sum(map(len, per_task)) / (8 * 6) * 272 < 2.2e6


def test_ratios_by_task_are_those_of_the_summary(directory, document):
    evaluation = loading.load(directory)
    rows = {row[0]: row[1:] for row in document.rows["by-task"]}
    assert list(rows) == list(evaluation.summary.per_task)
    for task, cells in rows.items():
        for name, cell in zip(evaluation.names, cells, strict=True):
            versus = evaluation.summary.per_task[task][name].comparison
            failed = versus is not None and versus.ratio.mean is None
            assert cell == ("reference" if versus is None else "failed" if failed else f"{versus.ratio.mean:.3f}")


def test_shares_and_speedups_are_those_of_the_summary(directory, document):
    evaluation = loading.load(directory)
    assert evaluation.budget == 7
    rows = {row[0]: row for row in document.rows["overall"][:6]}
    for name in evaluation.names:
        versus = evaluation.summary.overall[name].budgets[7].versus["best baseline"]
        better, iqm = versus.train.better, versus.speedup.iqm
        assert rows[name][2] == f"{better.count} of {better.n} [{better.low:.2f}, {better.high:.2f}]"
        assert rows[name][6].startswith(f"{iqm.mean:.2f} [")
    against = [(row[0], int(row[1])) for row in document.rows["budgets"]]
    references = ["best baseline", *report_toy.BASELINES]
    assert against == [(reference, n) for reference in references for n in (1, 7)] * 2


def test_every_diverged_run_is_listed(directory, document):
    lines = map(json.loads, (directory / "results.jsonl").read_text().splitlines())
    lost = {(r["task"], r["optimizer"], r["trial"], r["seed"], r["diverged_at"]) for r in lines if r["diverged"]}
    assert {name for _, name, *_ in lost} >= {"small-fc-digits", "adam"}
    listed = {
        (row[0], row[1], int(row[2]), int(seed), int(step))
        for row in document.rows["failures"]
        for seed, step in re.findall(r"(\d+) \((\d+)\)", row[-1])
    }
    assert listed == lost


def test_the_reported_failures_come_first(directory):
    content, n = tables.failures(loading.load(directory), reported=True)
    assert n == 2 and content.count("task_07") >= 2


def test_numbers_of_a_task(directory):
    """Failures come last; the final validation loss is that of the trial that is best by it."""
    out = loading.load(directory)
    rows = re.findall(r"<tr>.*?</tr>", tables.numbers(out, "task_07"))
    lost = [f"{out.result('task_07', name).diverged} of 5" for name in report_toy.LEARNED]
    assert lost == ["1 of 5"] * 2 and all("1 of 5" in row for row in rows[-2:])
    adam = out.summary.per_task["task_01"]["adam"]
    at = replace(adam.budgets[out.budget], final_valid_loss=Figure(7.531, None, None, 5))
    out.summary.per_task["task_01"]["adam"] = replace(adam, budgets=adam.budgets | {out.budget: at})
    assert "7.531" in tables.numbers(out, "task_01")


def test_failures_of_learned_optimizers_count_against_the_rates(directory, monkeypatch):
    out, drawn = loading.load(directory), []
    monkeypatch.setattr(overview_figures, "sensitivity", lambda sweeps, references, fixed: drawn.append(fixed))
    list(overview._sensitivity(out))
    for results in out.summary.per_task.values():
        results[report_toy.LEARNED[0]] = replace(results[report_toy.LEARNED[0]], diverged=1)
    list(overview._sensitivity(out))
    assert [sorted(fixed) for fixed in drawn] == [[0, 1], [1]]


def test_means_over_windows():
    step, loss = task_figures.thin(np.arange(7), np.array([[9.0, 1, 3, 5, 7, 10, 20]]), points=4)
    np.testing.assert_array_equal(step, [0, 1.5, 3.5, 5.5])
    np.testing.assert_array_equal(loss, [[9, 2, 6, 15]])
    step, loss = task_figures.thin(np.arange(1), np.array([[4.0]]))
    assert step.tolist() == [0] and loss.tolist() == [[4.0]]


def test_bands_leave_out_diverged_seeds():
    values = np.array([[1.0, 2.0], [5.0, np.inf], [3.0, 8.0]])
    middle, low, high = task_figures.band(values, np.array([True, False, True]))
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([2, 5], [1, 2], [3, 8])
    assert np.isnan(task_figures.band(values, np.zeros(3, bool)).middle).all()


def test_sensitivity_is_the_sweep_at_default_settings(directory):
    """Of 8 trials, the last is the first rate with a schedule; rates ascend, whatever the order of the trials."""
    out = loading.load(directory)
    result = out.summary.per_task["task_01"]["adam"]
    trials = [
        replace(t, schedule="constant" if i < 7 else "cosine")
        for i, t in enumerate([*result.by_trial, result.by_trial[0]])
    ]
    rate, loss, lost = task_figures.sensitivity(replace(result, by_trial=tuple(trials)))
    np.testing.assert_array_equal(rate, [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1])
    expected = {t.learning_rate: t.final_train_loss.mean for t in trials[:7]}
    np.testing.assert_array_equal(loss, [np.nan if expected[r] is None else expected[r] for r in rate])
    assert np.isnan(loss).any() and (np.isnan(loss) == (lost == 5)).all()


@pytest.mark.parametrize(("low", "high"), [(1e-5, 3.0), (0.93, 1.31), (1.0, 1.001), (2.0, 9.0), (1e-12, 1e12)])
def test_ticks_are_few_and_inside(low, high):
    with svg.style():
        axes = svg.panel(300.0, 200.0, 40.0, 30.0)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        svg.log_ticks(axes, "y")
        ticks = axes.get_yticks()
    assert 2 <= len(ticks) <= 9
    assert low * 0.998 <= min(ticks) and max(ticks) <= high * 1.002


PARTS = {
    "a group that is not finished": {"missing": True},
    "learned optimizers only": {"baselines": ()},
    "baselines only": {"learned": ()},
    "one learned optimizer": {"learned": ("small-fc-digits",), "baselines": ()},
    "one baseline": {"learned": (), "baselines": ("adam",)},
    "one seed": {"seeds": 1},
    "one step": {"tasks": 1, "steps": 1},
    "nine optimizers": {"learned": tuple("abcde")},
    "the full budget": {"n_trials": 42},
    "a single trial": {"n_trials": 1},
}


@pytest.mark.parametrize("case", PARTS)
def test_what_is_there_is_reported(tmp_path, case):
    out = report_toy.write(tmp_path, **{"tasks": 2} | PARTS[case])
    document = Document(report.report(out).read_text())
    if case == "a group that is not finished":
        assert "not run" in document.rows["by-task"][1] and "task_01: sgd" in document.words


def test_curves_that_cannot_be_read(tmp_path):
    """Absent, broken, without validation losses, and not a number throughout: the page does without."""
    out = report_toy.write(tmp_path, tasks=2)
    path = lambda name: store.curves_path(out, "task_00", name)
    path("adam").unlink()
    path("sgd").write_bytes(b"PK")
    with np.load(path("lion")) as arrays:
        np.savez(path("lion"), **{key: value for key, value in arrays.items() if not key.startswith("valid")})
    with np.load(path("nadamw")) as arrays:
        np.savez(path("nadamw"), **{key: np.nan * value for key, value in arrays.items() if key.endswith("loss")})
    evaluation = loading.load(out)
    assert evaluation.curves("task_00", "adam") is None and evaluation.curves("task_00", "sgd") is None
    assert evaluation.curves("task_00", "lion").valid_loss.shape == (5, 0)
    Document(page(evaluation))


def test_nothing_finished(tmp_path):
    """Every run diverged: tables and the list of failures are all there is."""
    out = report_toy.write(tmp_path, tasks=2, lost=True)
    document = Document(report.report(out).read_text())
    assert len(document.rows["failures"]) == 2 * (2 + 4 * 7)


def test_command(directory, tmp_path, capsys):
    shutil.copytree(directory, tmp_path / "copy")
    assert cli.main(["report", str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "copy" / "report.html")


def test_without_a_summary_the_error_names_the_command(directory, tmp_path, capsys):
    out = tmp_path / "an evaluation"
    shutil.copytree(directory, out)
    (out / "summary.json").unlink()
    assert cli.main(["report", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "learned-opt evaluate --optimizers 'small-fc-digits,runs/<b>&co,adam,nadamw,lion,sgd' --suite toy" in line
    assert f"--out '{out}'" in line and "--steps 200" in line


def test_without_what_is_optional(tmp_path):
    """No speed-ups, targets, profiles or overhead, and ends of intervals that failures leave open."""
    out = report_toy.write(tmp_path, tasks=3)
    content = json.loads((out / "summary.json").read_text())
    content |= {"profiles": {}, "overhead": {}}
    for results in content["per_task"].values():
        for result in results.values():
            for at in result["budgets"].values():
                at |= {"speedup": {}, "target": None}
    for overall in content["overall"].values():
        for at in overall["budgets"].values():
            at["target"] = None
            for versus in at["versus"].values():
                versus["speedup"] = None
                versus["train"]["iqm"] = {"mean": 0.5, "low": 0.25, "high": None, "n": 3}
                versus["valid"]["iqm"] = {"mean": None, "low": 0.25, "high": None, "n": 3}
    (out / "summary.json").write_text(json.dumps(content))
    document = Document(report.report(out).read_text())
    assert "speedups" not in document.ids and "profiles" not in document.ids
    assert document.rows["overhead"][0][1] == "11 ×"
    assert document.rows["overall"][0][4:7] == ["0.500 [0.250, …]", "failures decide", "–"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"per_task": {}}', "\x00"])
def test_a_summary_of_another_version(tmp_path, content, capsys):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError, match="learned-opt evaluate --optimizers NAMES"):
        loading.load(tmp_path)
    assert cli.main(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_directory_that_is_not_there(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
