import json
import math

import cattrs
import numpy as np
import pytest
from judge_toy import ADAM, MINE, SGD, rows, summarize

from meta_train.evaluate import judge, overall
from meta_train.evaluate.selection import compare, floor
from meta_train.evaluate.statistics import Figure, paired_p, share, student_t
from meta_train.evaluate.summary import BEST, Comparison, Overhead, Summary

EMPTY = Figure(None, None, None, 0)


def test_figures_are_those_of_the_best_trial_by_final_training_loss():
    adam = summarize(ADAM, SGD, MINE).per_task["t"]["adam"]
    assert (adam.trials, adam.seeds, adam.best_trial, adam.learning_rate) == (3, 3, 1, 0.01)
    assert (adam.schedule, adam.weight_decay) == ("constant", 0.0)
    assert adam.final_train_loss == student_t([3.0, 4.0, 5.0])
    assert adam.final_valid_loss == student_t([4.0, 5.0, 6.0])
    assert adam.mean_train_loss == student_t([7.0, 6.0, 5.0])  # that of trial 0 is lower
    assert [t.final_train_loss.mean for t in adam.by_trial] == [6.0, 4.0, pytest.approx(12.5 / 3)]
    assert (adam.seconds_per_run, adam.compile_seconds) == (0.5, 2.0)


def test_validation_loss_has_a_selection_of_its_own():
    group = rows("t", "adam", [[2.0, 2.0], [3.0, 3.0]], valid=[[9.0, 9.2], [5.0, 5.2]])
    adam = summarize(group, rows("t", "mine", [[1.0, 1.0]], "learned", [[6.0, 6.3]])).per_task["t"]
    at = adam["adam"].budgets[2]
    assert (at.best_trial, at.best_trial_valid) == (0, 1)
    assert at.final_valid_loss == student_t([5.0, 5.2])
    assert adam["adam"].final_valid_loss == student_t([9.0, 9.2])  # of the run whose training loss is shown
    assert at.target is not None and (at.target.target, at.target.steps) == (5.1, 10.0)  # reached at its very end
    mine = adam["mine"].budgets
    assert mine[2].train[BEST].verdict == "better" and mine[2].valid[BEST].verdict == "worse"
    assert mine[1].valid[BEST].verdict == "better"  # the default of adam


def test_budgets_are_the_first_trials():
    trials = [[9.0 - 0.1 * i, 9.1 - 0.1 * i] for i in range(9)]
    assert judge.budgets(rows("t", "adam", [[1.0]] * 42)) == (1, 7, 42)
    assert judge.budgets(rows("t", "adam", [[1.0]] * 7)) == (1, 7)
    summary = summarize(rows("t", "adam", trials), rows("t", "mine", [[8.0, 8.0]], "learned"))
    adam, mine = summary.per_task["t"]["adam"].budgets, summary.per_task["t"]["mine"].budgets
    assert list(adam) == list(mine) == [1, 7, 9]
    assert [at.best_trial for at in adam.values()] == [0, 6, 8]
    assert [at.best_trial for at in mine.values()] == [0, 0, 0]
    assert [at.train[BEST].difference.mean for at in mine.values()] == pytest.approx([-1.05, -0.45, -0.25])
    assert summary.per_task["t"]["mine"].comparison == mine[9].train["adam"]


def test_the_best_rate_at_an_edge_is_flagged():
    results = summarize(ADAM, SGD, MINE, rows("t", "lion", [[9.0] * 3, [8.0] * 3, [7.0] * 3])).per_task["t"]
    assert [results[n].rate_at_edge for n in ("adam", "sgd", "lion", "mine")] == [None, "lowest", "highest", None]
    assert summarize(rows("t", "adam", [[1.0, 2.0]])).per_task["t"]["adam"].rate_at_edge is None


def test_comparison_is_paired_with_the_best_tuned_baseline():
    results = summarize(MINE, SGD, ADAM).per_task["t"]
    mine = results["mine"].comparison
    assert mine is not None and mine.baseline == "adam"
    assert mine.ratio.mean == pytest.approx((1.5 / 3 * 2.1 / 4 * 2.4 / 5) ** (1 / 3))
    assert mine.difference.mean == pytest.approx(-2.0)
    assert mine.p == paired_p([1.5, 2.1, 2.4], [3.0, 4.0, 5.0])
    assert (mine.verdict, mine.unpaired, mine.better, mine.not_worse) == ("better", 0, True, True)
    assert results["adam"].comparison is None
    sgd = results["sgd"].comparison  # exactly one worse on every seed
    assert sgd is not None and (sgd.baseline, sgd.verdict, sgd.difference.mean) == ("adam", "worse", 1.0)
    assert (sgd.better, sgd.not_worse) == (False, False)
    named = results["mine"].budgets[3].train
    assert list(named) == [BEST, "sgd", "adam"] and named[BEST] == named["adam"]
    assert named["sgd"].difference.mean == pytest.approx(-3.0)
    assert list(results["sgd"].budgets[3].train) == [BEST] and not results["adam"].budgets[3].train


def test_no_decision_without_significance():
    mine = rows("t", "mine", [[2.9, 4.2, 4.8]], "learned")
    comparison = summarize(ADAM, mine).per_task["t"]["mine"].comparison
    assert comparison is not None and (comparison.verdict, comparison.better) == ("undecided", True)
    # Differences -1, -2, -3: t = 2 sqrt(3), p = 0.074, not enough; -2, -3, -4: t = 3 sqrt(3), p = 0.035.
    for shift, verdict in ((1.0, "undecided"), (2.0, "better")):
        mine = rows("t", "mine", [[7.0 - shift, 7.0 - shift - 1, 7.0 - shift - 2]], "learned")
        found = summarize(rows("t", "adam", [[7.0, 7.0, 7.0]]), mine).per_task["t"]["mine"].comparison
        assert found is not None and found.verdict == verdict
    alone = rows("t", "mine", [[0.1]], "learned"), rows("t", "adam", [[5.0]])
    comparison = summarize(*alone).per_task["t"]["mine"].comparison
    assert comparison is not None and comparison.verdict == "undecided"  # one seed proves nothing
    equal = compare(MINE, MINE, "final_train_loss", 1e-9)
    assert (equal.verdict, equal.better, equal.not_worse) == ("undecided", False, True)


def test_floor_of_ratios():
    assert floor(ADAM) == pytest.approx(0.1)
    assert floor(rows("t", "adam", [[1.0]], first=-5.0)) == pytest.approx(0.005)
    assert floor(rows("t", "adam", [[None]], first=None)) > 0
    own, reference = rows("t", "a", [[-1.0, 0.0, 0.01]]), rows("t", "b", [[0.2, 0.2, 0.05]])
    found = compare(own, reference, "final_train_loss", 0.1)
    assert found.ratio.mean == pytest.approx((0.5 * 0.5 * 1.0) ** (1 / 3))
    assert found.difference.mean == pytest.approx(-1.44 / 3)  # the difference is that of the losses


def test_runs_are_paired_by_seed():
    """Of 1 2 3 and 5 7 11 without the first and the last: 2 and 7."""
    own, reference = rows("t", "a", [[None, 2.0, 3.0]]), rows("t", "b", [[5.0, 7.0, None]])
    found = compare(own, reference, "final_train_loss", 0.1)
    assert found.difference.mean == pytest.approx(-5.0) and found.unpaired == 2


def test_diverged_runs_are_counted_and_never_averaged():
    adam = summarize(rows("t", "adam", [[1.0, None, 1.0], [3.0, 4.0, 5.0]])).per_task["t"]["adam"]
    # A trial that loses a seed is not the best one, however low the others.
    assert (adam.best_trial, adam.diverged, adam.diverged_all_trials) == (1, 0, 1)
    assert (adam.by_trial[0].diverged, adam.by_trial[0].final_train_loss) == (1, student_t([1.0, 1.0]))
    assert adam.budgets[1].diverged == 1


@pytest.mark.parametrize("losses", [[0.1, None, 0.1, 0.2], [None] * 4])
def test_a_failure_is_worse_than_everything(losses):
    summary = summarize(rows("t", "adam", [[3.0, 3.1, 3.2, 3.3]]), rows("t", "mine", [losses], "learned"))
    result = summary.per_task["t"]["mine"]
    comparison, at, of = result.comparison, result.budgets[1], summary.overall["mine"].budgets[1]
    assert comparison is not None and comparison.ratio == EMPTY
    assert result.diverged == comparison.unpaired == losses.count(None)
    assert (comparison.verdict, comparison.better, comparison.not_worse) == ("worse", False, False)
    assert (at.speedup[BEST].value, at.speedup[BEST].case) == (0.0, "failed")
    assert at.target is not None and (at.target.steps, at.target.seconds) == (None, None)
    versus = of.versus[BEST]
    assert (of.failed, versus.train.iqm, versus.train.not_worse.count) == (1, Figure(None, None, None, 1), 0)
    assert versus.speedup is not None and (versus.speedup.iqm.mean, versus.speedup.failed) == (0.0, 1)
    assert summary.profiles[1]["final_train_loss"].lines["mine"].share[-1] == 0.0
    assert summary.overall["mine"].ratio == EMPTY and summary.overall["mine"].tasks_compared == 0


def test_only_the_baseline_fails():
    summary = summarize(rows("t", "adam", [[1.0, None]]), rows("t", "mine", [[5.0, 5.0]], "learned"))
    at = summary.per_task["t"]["mine"].budgets[1]
    comparison, speedup = at.train[BEST], at.speedup[BEST]
    assert (comparison.verdict, comparison.better, comparison.ratio) == ("better", True, EMPTY)
    assert (speedup.value, speedup.case, at.target) == (None, "baseline_failed", None)
    assert summary.overall["adam"].best_baseline == 0
    assert summary.overall["mine"].tasks_compared == 0
    # Among other tasks its ratio is the lowest: of 0 .25 .5 .5 .8 1.25 the middle four.
    groups = [rows("lost", "adam", [[4.0, None, 4.2]]), rows("lost", "mine", [[9.0, 9.0, 9.0]], "learned")]
    versus = summarize(*groups, *(g for pair in MANY for g in pair)).overall["mine"].budgets[1].versus[BEST]
    assert versus.train.iqm.mean == pytest.approx((0.25 * 0.5 * 0.5 * 0.8) ** 0.25)
    assert versus.train.iqm.low is None and versus.train.better == share(5, 6)
    assert versus.speedup is not None and versus.speedup.iqm.high is None and versus.speedup.failed == 0
    # A failure that meets a failure is no tie.
    both = summarize(rows("t", "adam", [[1.0, None]]), rows("t", "mine", [[None, 5.0]], "learned"))
    assert both.per_task["t"]["mine"].budgets[1].train[BEST].verdict == "worse"


def test_speedup_and_target():
    results = summarize(ADAM, SGD, MINE).per_task["t"]
    mine, sgd = results["mine"].budgets[3], results["sgd"].budgets[3]
    # Lines from 10 at 0 to 2 (mine), 4 (adam) and 5 (sgd) at 9 updates; the smoothing of 10 steps is next to none.
    assert (mine.speedup[BEST].baseline, mine.speedup[BEST].case) == ("adam", "reached")
    assert mine.speedup[BEST].value == pytest.approx(8 / 6, rel=1e-3)
    assert mine.speedup["sgd"].value == pytest.approx(8 / 5, rel=1e-3)
    assert sgd.speedup[BEST].value == pytest.approx(5 / 6, rel=1e-3)
    assert (sgd.speedup[BEST].case, results["adam"].budgets[3].speedup) == ("behind", {})
    # Validation: from 10 to 3, 5 and 6 at 10 updates; the target is 5.
    assert mine.target is not None and mine.target.target == 5.0
    assert mine.target.steps == pytest.approx(10 * 5 / 7) and mine.target.seconds == pytest.approx(0.5 * 5 / 7)
    adam = results["adam"].budgets[3].target
    assert adam is not None and adam.steps == 10.0
    assert sgd.target is not None and sgd.target.steps is None
    # At budget 1 adam ends at 6, sgd at 5.
    first = results["mine"].budgets[1].speedup
    assert first[BEST].baseline == "sgd" and first["adam"].value == pytest.approx(8 / 4, rel=1e-3)


def test_profiles():
    found = summarize(ADAM, SGD, MINE, rows("t", "naught", [[-0.5, 0.0, 0.1]], "learned")).profiles
    assert set(found) == {1, 3} and set(found[3]) == {"final_train_loss", "final_valid_loss", "steps_to_target"}
    # Steps from 10 to 5 at 10 updates, on lines that end at 3, 5, 6 and 0.867; sgd is never there.
    least = 10 * 5 / (10 - 2.6 / 3)
    area = {"adam": (4 - 10 / least) / 3, "sgd": 0.0, "mine": (4 - 10 * 5 / 7 / least) / 3, "naught": 1.0}
    assert found[3]["steps_to_target"].area == pytest.approx(area)
    # The loss -0.133 counts as a thousandth of 100, and 2 is 20 times that.
    assert found[3]["final_train_loss"].area == {"adam": 0.0, "sgd": 0.0, "mine": 0.0, "naught": 1.0}
    assert found[3]["final_valid_loss"].area["mine"] == pytest.approx((4 - 3 / (2.6 / 3)) / 3)
    # Without it, at budget 1: 2 of mine, 6 of adam, 5 of sgd.
    without = summarize(ADAM, SGD, MINE).profiles[1]["final_train_loss"]
    assert without.area == pytest.approx({"mine": 1.0, "adam": 1 / 3, "sgd": 0.5})


def test_without_curves_or_baselines():
    summary = summarize(MINE, ADAM, curves=None)
    at = summary.per_task["t"]["mine"].budgets[3]
    assert (at.speedup, at.target, summary.overall["mine"].budgets[3].target) == ({}, None, None)
    assert summary.overall["mine"].budgets[3].versus[BEST].speedup is None
    assert set(summary.profiles[3]) == {"final_train_loss", "final_valid_loss"}
    summary = summarize(MINE)
    assert summary.per_task["t"]["mine"].comparison is None
    assert summary.overall["mine"].ratio.mean is None and not summary.overall["mine"].budgets[1].versus


MANY = [
    (rows(f"t{i}", "adam", [[4.0, 4.0, 4.2]]), rows(f"t{i}", "mine", [[4.0 * r, 4.0 * r, 4.2 * r]], "learned"))
    for i, r in enumerate([0.5, 0.25, 0.8, 1.25, 0.5])
]
LOST = (rows("lost", "adam", [[4.0, 4.0, 4.2]]), rows("lost", "mine", [[0.1, None, 0.1]], "learned"))


def test_over_tasks():
    summary = summarize(*(group for pair in [*MANY, LOST] for group in pair))
    mine = summary.overall["mine"]
    assert (mine.tasks, mine.runs, mine.tasks_compared, mine.tasks_diverged) == (6, 18, 5, 1)
    # Without the failure: the fifth root; with it, the middle four of .25 .5 .5 .8 1.25 inf.
    assert mine.ratio.mean == pytest.approx((0.5 * 0.25 * 0.8 * 1.25 * 0.5) ** 0.2)
    versus = mine.budgets[1].versus[BEST]
    assert versus == mine.budgets[1].versus["adam"]
    assert versus.train.iqm.mean == pytest.approx((0.5 * 0.5 * 0.8 * 1.25) ** 0.25) and versus.train.iqm.n == 6
    assert versus.train.iqm.low is not None and versus.train.iqm.high is None
    assert versus.train.better == versus.train.not_worse == share(4, 6)
    assert versus.train.verdicts == mine.verdicts == {"better": 4, "worse": 2, "undecided": 0}
    adam = summary.overall["adam"]
    assert adam.best_baseline == 6 and adam.ratio.mean == 1.0
    assert adam.verdicts == {"better": 0, "worse": 0, "undecided": 0} and not adam.budgets[1].versus
    assert mine.budgets[1].target == share(4, 6)


def test_an_optimizer_that_is_the_reference_counts_as_one():
    groups = [rows("u", "adam", [[2.0, 2.1]]), rows("u", "sgd", [[1.0, 1.1]]), *(r for r in (ADAM, SGD))]
    adam = summarize(*groups).overall["adam"].budgets[1].versus[BEST]
    assert adam.train.not_worse == share(0, 2)
    at_three = summarize(*groups).overall["adam"].budgets[3].versus[BEST]
    assert (at_three.train.not_worse, at_three.train.better) == (share(1, 2), share(0, 2))  # best on t
    assert at_three.speedup is not None and at_three.speedup.iqm.n == 2
    # On u lines from 10 to 2.05 and 1.05.
    assert at_three.speedup.iqm.mean == pytest.approx(math.sqrt(1.0 * 7.95 / 8.95), rel=1e-3)
    assert at_three.speedup.faster == share(0, 2)
    ratio = math.sqrt(1.0 * math.exp(np.mean(np.log([2.0, 2.1 / 1.1]))))
    assert at_three.train.iqm.mean == pytest.approx(ratio)


def test_holm_over_tasks():
    def one(p, verdict="better"):
        return Comparison("adam", Figure(0.5, None, None, 3), EMPTY, p, 0, True, True, verdict)

    failure = Comparison("adam", EMPTY, EMPTY, None, 1, False, False, "worse")
    found = overall.quality([one(0.01), one(0.03), failure, one(0.03), one(None, "undecided"), None])
    assert found.verdicts == {"better": 3, "worse": 1, "undecided": 1}
    assert found.holm == {"better": 1, "worse": 1, "undecided": 3}  # .04, .09, 0, .09, 1


def test_a_summary_is_strict_json_and_reads_back():
    cost = Overhead("t", 10, 1e-5, 2.0, 1e-4, 1.1, 8.0)
    summary = summarize(ADAM, rows("t", "mine", [[None] * 3], "learned"), overhead={"mine": cost})
    there = json.loads(json.dumps(summary.as_json(), allow_nan=False))
    assert there["per_task"]["t"]["adam"]["final_train_loss"]["n"] == 3
    assert there["overhead"]["mine"]["update_ratio"] == 2.0
    assert cattrs.structure(there, Summary) == summary
