"""Which trial of an optimizer counts, and how two optimizers compare on a task.

Rules, all of them favourable to the baselines:

* The trial of an optimizer at a budget is the best of its first n: fewest diverged seeds, then lowest mean over seeds
  of the final loss. Where validation losses are compared it is the final validation loss, else the final
  training loss. It is chosen on the very seeds that are reported.
* The reference is the baseline that is best by the same rule on that task, at the same budget.
* Optimizers are compared seed by seed. One with a diverged seed at its trial has failed the task, and is worse
  whatever the others do; if only the baseline has failed, the optimizer is better.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from meta_train.evaluate.statistics import LEVEL, Figure, paired_difference, paired_p, ratio_of_logs, student_t
from meta_train.evaluate.store import Row
from meta_train.evaluate.summary import Comparison, Verdict

Measure = Literal["final_train_loss", "final_valid_loss"]
"""What a trial is selected by and compared in."""

FLOOR = 1e-3
"""Share of the loss before training that counts as no loss: below it ratios would compare what no one cares about."""


def finished(rows: Sequence[Row]) -> list[Row]:
    """The runs that did not diverge."""
    return [row for row in rows if not row["diverged"]]


def failed(rows: Sequence[Row]) -> bool:
    """Whether the trial of these runs has a diverged seed."""
    return any(row["diverged"] for row in rows)


def figure(rows: Sequence[Row], field: str) -> Figure:
    """Mean of a field over the runs that did not diverge."""
    return student_t([row[field] for row in finished(rows)])


def best_trial(rows: Sequence[Row], measure: Measure, budget: int) -> list[Row]:
    """The runs of the best of the first `budget` trials."""
    trials: dict[int, list[Row]] = {}
    for row in rows:
        if row["trial"] < budget:
            trials.setdefault(row["trial"], []).append(row)
    return min(trials.values(), key=lambda runs: _rank(runs, measure))


def best_baseline(best: Mapping[str, Sequence[Row]], measure: Measure) -> str | None:
    """Name of the best baseline, given the best trial of every optimizer; None without baselines."""
    baselines = [name for name, rows in best.items() if rows[0]["kind"] == "baseline"]
    return min(baselines, key=lambda name: _rank(best[name], measure), default=None)


def _rank(rows: Sequence[Row], measure: Measure) -> tuple[int, float]:
    mean = figure(rows, measure).mean
    return len(rows) - len(finished(rows)), math.inf if mean is None else mean


def floor(rows: Sequence[Row]) -> float:
    """The least loss in ratios: `FLOOR` times the mean loss before training, which is the same for all optimizers."""
    before = student_t([row["first_train_loss"] for row in rows if row["first_train_loss"] is not None]).mean
    return max(FLOOR * abs(before or 0.0), 1e-30)


def log_ratios(own: Sequence[Row], reference: Sequence[Row], measure: Measure, least: float) -> list[float]:
    """ln(own / reference) of the seeds that both finished; losses below `least` count as `least`."""
    return [math.log(max(a, least) / max(b, least)) for a, b in zip(*_pairs(own, reference, measure), strict=True)]


def compare(own: Sequence[Row], reference: Sequence[Row], measure: Measure, least: float) -> Comparison:
    """`own` against the runs `reference` of a baseline, paired by seed.

    Args:
      own: the runs of one trial.
      reference: the runs of one trial of a baseline, on the same seeds.
      measure: what is compared.
      least: see `log_ratios`.
    """
    a, b = _pairs(own, reference, measure)
    difference, p = paired_difference(a, b), paired_p(a, b)
    either = failed(own) or failed(reference)
    mean = difference.mean
    # A failure has an infinite loss, and two of them are no tie.
    sign = math.inf if failed(own) else -math.inf if either or mean is None else mean
    verdict: Verdict = "better" if sign < 0 else "worse"
    if not either and (p is None or p >= 1 - LEVEL):
        verdict = "undecided"
    return Comparison(
        baseline=reference[0]["optimizer"],
        ratio=Figure(None, None, None, 0) if either else ratio_of_logs(log_ratios(own, reference, measure, least)),
        difference=difference,
        p=p,
        unpaired=len(own) - len(a),
        better=sign < 0,
        not_worse=sign <= 0,
        verdict=verdict,
    )


def _pairs(own: Sequence[Row], reference: Sequence[Row], measure: Measure) -> tuple[list[float], list[float]]:
    """Losses of the seeds that both finished."""
    by_seed = {row["seed"]: row[measure] for row in finished(reference)}
    both = [(row[measure], by_seed[row["seed"]]) for row in finished(own) if row["seed"] in by_seed]
    return [a for a, _ in both], [b for _, b in both]


def edge(rows: Sequence[Row], best: Sequence[Row]) -> str | None:
    """lowest or highest, if the rate of the best trial is an end of the rates of all trials."""
    rates = {row["learning_rate"] for row in rows}
    if len(rates) == 1:
        return None
    ends = {min(rates): "lowest", max(rates): "highest"}
    return ends.get(best[0]["learning_rate"])
