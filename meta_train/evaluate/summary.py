"""The figures of a comparison, as they stand in summary.json; `judge` makes them."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from meta_train.evaluate.statistics import LEVEL, Figure

NOTES = {
    "interval": f"two-sided {LEVEL:.0%}: Student's t over seeds; overall, with the tasks fixed, "
    "Welch-Satterthwaite over the seeds of all tasks",
    "selection": "per task, the trial with the fewest diverged seeds, then the lowest mean over seeds of the "
    "mean training loss, chosen on the reported seeds: favourable to the tuned baselines",
    "comparison": "ratio and difference of the mean training loss to the best tuned baseline of the task, "
    "paired by seed; a ratio below 1 is better",
    "divergence": "a loss that is not finite; diverged runs are counted and enter no mean, n counts the runs "
    "behind a figure",
    "seconds": "run time of the compiled program over its number of runs, training alone, without "
    "compilation and final evaluation; one measurement, hence no interval; programs of many runs use a machine "
    "better than those of few, so this is the cost of the evaluation and no measure of overhead",
}
"""How the figures were made; part of summary.json."""

Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class TrialResult:
    """One trial of an optimizer on a task."""

    learning_rate: float | None
    """None for an optimizer that has none."""
    mean_train_loss: Figure
    """Over seeds; of the training loss averaged over all steps."""
    diverged: int
    """Seeds that diverged."""


@dataclass(frozen=True)
class Comparison:
    """An optimizer against the best tuned baseline of a task, on the mean training loss."""

    baseline: str
    """Name of that baseline."""
    ratio: Figure
    """Geometric mean over seeds of own / baseline."""
    difference: Figure
    """Mean over seeds of own - baseline."""
    unpaired: int
    """Seeds left out because one of the two diverged."""
    verdict: Verdict
    """Whether the interval of the difference excludes zero, and on which side."""


@dataclass(frozen=True)
class Result:
    """One optimizer on one task, at its best trial."""

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
    rate_at_edge: str | None
    """lowest or highest: the best rate is the end of the grid, a wider grid could do better."""
    mean_train_loss: Figure
    """Nats or the unit of the task; mean over all steps of the loss before each update."""
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
    """None for the best baseline itself, without baselines, or when nothing finished."""
    by_trial: tuple[TrialResult, ...]
    """Sensitivity to the rate."""


@dataclass(frozen=True)
class Overall:
    """One optimizer over all tasks."""

    kind: str
    """learned or baseline."""
    tasks: int
    """Tasks evaluated."""
    runs: int
    """Training runs over all tasks, trials and seeds."""
    ratio: Figure
    """Geometric mean over tasks of the ratio to the best tuned baseline of each (1 where it is that one)."""
    tasks_compared: int
    """Tasks behind `ratio`; the others failed or had nothing to compare with."""
    verdicts: dict[str, int]
    """Tasks on which it is better, worse or undecided."""
    best_baseline: int
    """Tasks on which it is the best tuned baseline."""
    tasks_diverged: int
    """Tasks with a diverged seed at the best trial."""
    diverged_all_trials: int
    """Diverged runs over all tasks and trials."""
    rate_at_edge: int
    """Tasks whose best rate is an end of the grid."""


@dataclass(frozen=True)
class Summary:
    """Everything in summary.json."""

    configuration: dict[str, Any]
    """As in evaluation.json: suite, steps, seeds, seed, optimizers, versions."""
    budgets: dict[str, int]
    """Trials of each optimizer."""
    seeds: list[int]
    """Indices of the seeds."""
    per_task: dict[str, dict[str, Result]]
    """task -> optimizer -> figures."""
    overall: dict[str, Overall]
    """optimizer -> figures."""
    notes: dict[str, str]
    """How the figures were made."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)
