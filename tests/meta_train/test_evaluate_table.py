import io
import re

from judge_toy import ADAM, MINE, SGD, rows, summarize
from rich.console import Console

from meta_train.evaluate import table
from meta_train.evaluate.summary import Overhead


def text(summary, width=table.PLAIN_WIDTH):
    console = Console(file=io.StringIO(), width=width)
    table.print_summary(summary, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(printed, name):
    """Of the first row that starts with a name."""
    line = next(line for line in printed.splitlines() if re.match(rf"│ {re.escape(name)} ", line))
    return [cell.strip() for cell in line.strip("│").split("│")]


def tasks(n, *groups):
    return [[{**row, "task": f"task_{k}"} for row in group] for k in range(n) for group in groups]


def test_one_table_per_task():
    lost = rows("t", "runs/[red]lost", [[None, None, None]], "learned")
    printed = text(summarize(ADAM, SGD, MINE, lost), width=240)
    names = [match[1] for line in printed.splitlines() if (match := re.match(r"│ (\S+)", line))]
    assert names == ["mine", "adam", "sgd", "runs/[red]lost"]  # by final training loss, failures last
    name, trials, trial, train, valid, mean, versus, speedup, target, diverged, seconds = cells(printed, "adam")
    assert (name, trials, trial, train, valid, mean) == ("adam", "3", "0.01", "4 ± 2.5", "5 ± 2.5", "6 ± 2.5")
    assert (versus, speedup, target, diverged, seconds) == ("best baseline", "-", "10", "0/3 (0/9)", "0.5")
    name, trials, trial, train, valid, mean, versus, speedup, target, diverged, seconds = cells(printed, "sgd")
    assert (trial, diverged, target) == ("0.001 (lowest!)", "0/3 (1/9)", "never")
    assert versus.endswith("worse") and speedup == "0.833"
    assert cells(printed, "mine")[6].endswith("better") and cells(printed, "mine")[7:9] == ["1.33", "7"]
    assert cells(printed, "runs/[red]lost")[3] == "-" and cells(printed, "runs/[red]lost")[-2] == "3/3"
    assert "t: 10 steps, 3 seeds, 3 trials per baseline" in printed
    assert "8.0 s" in printed and "overall" not in printed


def test_many_tasks_share_one_table():
    few, many = (summarize(*tasks(n, ADAM, SGD, MINE)) for n in (table.DETAILED, table.DETAILED + 1))
    assert text(few).count("s/run") == table.DETAILED + 1  # and the legend
    printed = text(many, width=240)
    assert "s/run" not in printed
    assert printed.count("10 steps, 3 seeds, 3 trials per baseline") == 2  # every table says what it depends on
    assert cells(printed, "task_3") == ["task_3", "2 ± 1.1", "4 ± 2.5", "5 ± 2.5", "adam", "better"]
    lost = text(summarize(*tasks(9, ADAM, rows("t", "mine", [[0.1, None, 0.1]], "learned"))), width=240)
    assert cells(lost, "task_3")[1:] == ["1 of 3 lost", "4 ± 2.5", "adam", "worse"]


def test_many_baselines_leave_the_best():
    others = [rows("t", name, [[9.0, 9.5, 9.2]] * 3) for name in ("a", "b", "c", "d")]
    printed = text(summarize(*tasks(9, ADAM, *others, MINE)), width=240)
    assert cells(printed, "task_0") == ["task_0", "2 ± 1.1", "4 ± 2.5 adam", "better"]


def test_overall_has_every_budget_of_learned_optimizers():
    cost = Overhead("t", 10, 1e-5, 2.54, 1e-4, 1.1, 8.0)
    printed = text(summarize(*tasks(5, ADAM, SGD, MINE), overhead={"mine": cost}), width=240)
    printed = printed[printed.index("overall: 5 tasks, 10 steps, 3 seeds") :]
    (name, n, ratio, better, verdicts, _, not_worse, speedup, target, failed, update) = cells(printed, "mine")
    assert (name, n, better, verdicts, failed, update) == ("mine", "3", "5/5 [48%, 100%]", "5 / 0 / 0", "0", "2.5x")
    assert ratio == "0.501 [0.501, 0.501]" and not_worse == "5/5 [48%, 100%]" and target == "5/5"
    assert speedup.startswith("1.33 [")
    budgets = lambda name: [line.split("│")[2].strip() for line in printed.splitlines() if line.startswith(f"│ {name}")]
    assert (budgets("mine"), budgets("sgd")) == (["3", "1"], ["3"])
    adam = cells(printed, "adam")
    assert (adam[1], adam[2], adam[3], adam[4]) == ("3", "-", "-", "-")  # always the best: nothing to compare with


def test_a_narrow_terminal():
    assert max(map(len, text(summarize(*tasks(2, ADAM, MINE)), width=100).splitlines())) <= 100


def test_tables_are_as_wide_as_the_page_and_no_wider():
    """Every row ends with its border: nothing is cut."""
    groups = tasks(5, ADAM, SGD, rows("t", "runs/a_long_name_of_a_run", [[1.5, 2.1, 2.4]], "learned"))
    for width in (90, 120, table.PLAIN_WIDTH):
        lines = text(summarize(*groups), width).splitlines()
        framed = [line for line in lines if line[:1] in "┏┡└│┃"]
        assert len(framed) > 20 and {line.rstrip()[-1] for line in framed} == set("┓┩┘│┃")
