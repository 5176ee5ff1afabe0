"""The figures of one optimizer on one task; see `summary` for the whole, and its `NOTES` for how they are made."""

from dataclasses import dataclass
from typing import Literal

from meta_train.evaluate.statistics import Figure

BEST = "best baseline"
"""The reference that is the best tuned baseline of each task."""

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class TrialResult:
    """One trial of an optimizer on a task."""

    learning_rate: float | None
    """None for an optimizer that has none."""
    schedule: str | None
    """Name of the schedule of the rate; None where there is none."""
    weight_decay: float | None
    """None where there is none."""
    final_train_loss: Figure
    """Over seeds."""
    diverged: int
    """Seeds that diverged."""


@dataclass(frozen=True)
class Comparison:
    """An optimizer against a baseline on one task, in the final training or validation loss."""

    baseline: str
    """Name of the baseline."""
    ratio: Figure
    """Geometric mean over seeds of own / baseline, see `NOTES`; empty if either failed."""
    difference: Figure
    """Mean over seeds of own - baseline; over the seeds that both finished."""
    p: float | None
    """Of Student's paired test, two-sided; None below two pairs."""
    unpaired: int
    """Seeds left out because one of the two diverged."""
    better: bool
    """The mean over seeds is lower, or only the baseline failed."""
    not_worse: bool
    """The mean over seeds is not higher, or only the baseline failed."""
    verdict: Verdict
    """Whether the difference is significant, and on which side; a failure is worse."""


@dataclass(frozen=True)
class Speedup:
    """An optimizer against a baseline on one task, in steps."""

    baseline: str
    """Name of the baseline."""
    value: float | None
    """Above 1 is faster, 0 for a failure; None where only the baseline failed: it counts as infinite."""
    case: Literal["reached", "behind", "failed", "baseline_failed"]
    """reached: the final level of the baseline was reached; behind: it was not."""


@dataclass(frozen=True)
class ToTarget:
    """How long an optimizer takes to the final validation loss of the best tuned baseline."""

    target: float
    """The validation loss."""
    steps: float | None
    """Interpolated between the moments of evaluation; None if it is never reached, or for a failure."""
    seconds: float | None
    """`steps` times the seconds per step of the run; see `NOTES`."""


@dataclass(frozen=True)
class AtBudget:
    """One optimizer on one task, after the first trials."""

    best_trial: int
    """Index in `Result.by_trial`, by the final training loss."""
    best_trial_valid: int
    """The same by the final validation loss; all that is said of the validation loss is of this trial."""
    mean_train_loss: Figure
    """At the best trial."""
    final_train_loss: Figure
    """At the best trial."""
    final_valid_loss: Figure
    """At the best trial for validation."""
    diverged: int
    """Seeds of the best trial that diverged; with any the optimizer has failed the task."""
    train: dict[str, Comparison]
    """reference -> on the final training loss; without the optimizer itself."""
    valid: dict[str, Comparison]
    """reference -> on the final validation loss."""
    speedup: dict[str, Speedup]
    """reference -> in steps; empty without curves."""
    target: ToTarget | None
    """None without curves, or where no baseline finished."""
    published: Figure | None = None
    """Speed-up over published curves, see `velodrome`: of the best trial, over seeds; None without such curves."""


@dataclass(frozen=True)
class Result:
    """One optimizer on one task, at the best of all its trials."""

    kind: str
    """learned or baseline."""
    trials: int
    """Tuning budget."""
    seeds: int
    """Training runs per trial."""
    best_trial: int
    """Index of the trial that the figures below are of."""
    learning_rate: float | None
    """Of that trial."""
    schedule: str | None
    """Of that trial."""
    weight_decay: float | None
    """Of that trial."""
    rate_at_edge: str | None
    """lowest or highest: the best rate is the end of the grid, a wider grid could do better."""
    mean_train_loss: Figure
    """Nats or the unit of the task; mean over all steps of the loss before each update, the area under the curve."""
    final_train_loss: Figure
    """After the last update, on the training split."""
    final_valid_loss: Figure
    """After the last update, on the validation split."""
    diverged: int
    """Seeds of the best trial that diverged."""
    diverged_all_trials: int
    """Runs of all trials that diverged, out of trials x seeds."""
    seconds_per_run: float
    """See `NOTES`."""
    compile_seconds: float
    """Tracing and compilation, once for all runs."""
    comparison: Comparison | None
    """With the best tuned baseline, on the final training loss; None for that one itself and without baselines."""
    by_trial: tuple[TrialResult, ...]
    """Sensitivity to the settings."""
    budgets: dict[int, AtBudget]
    """Budget -> figures; the last is that of all trials of the baselines."""
