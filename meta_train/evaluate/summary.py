"""The figures of a comparison, as they stand in summary.json; `judge` makes them, `NOTES` says how.

    Summary
      per_task[task][optimizer]: Result             at all its trials
        by_trial[i]: TrialResult
        budgets[n]: AtBudget                        at its first n trials
          train, valid[reference]: Comparison
          speedup[reference]: Speedup
          target: ToTarget
      overall[optimizer]: Overall
        budgets[n]: OverallAtBudget
          versus[reference]: Versus                 over all tasks
      profiles[n][measure]: Profile
      overhead[optimizer]: Overhead
      trained_on[optimizer]: TrainedOn

A reference is the name of a baseline, or `BEST`: the best of all baselines on that task, at the same budget. Learned
optimizers are compared with every baseline, baselines with `BEST` only. In JSON the budgets n are strings.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from meta_train.evaluate.results import BEST, AtBudget, Comparison, Result, Speedup, ToTarget, TrialResult, Verdict
from meta_train.evaluate.statistics import LEVEL, Figure, Share

__all__ = [
    "BEST",
    "NOTES",
    "AtBudget",
    "Comparison",
    "Line",
    "Overall",
    "OverallAtBudget",
    "Overhead",
    "Profile",
    "Quality",
    "Result",
    "Speedup",
    "Speedups",
    "Summary",
    "ToTarget",
    "TrainedOn",
    "TrialResult",
    "Verdict",
    "Versus",
]

NOTES = {
    "interval": f"two-sided {LEVEL:.0%}: Student's t over seeds; over tasks, see aggregate",
    "budget": "the first n trials of a baseline: 1 its default, 7 rates, 42 with schedules and weight decays; a "
    "learned optimizer has one trial at every budget, or with +tuned those of a baseline",
    "selection": "per task and budget, the trial with the fewest diverged seeds, then the lowest mean over seeds of "
    "the final training loss (for what is said of the validation loss: the final validation loss), chosen on the "
    "reported seeds: favourable to the tuned baselines",
    "comparison": "final loss, paired by seed; a ratio below 1 is better; the verdict is Student's paired test at "
    f"{1 - LEVEL:.2f}, without correction: rank and sign tests cannot reach that level with fewer than 6 seeds",
    "floor": "in ratios, losses below a thousandth of the loss before training count as that",
    "divergence": "a loss that is not finite, or at the end twice the loss at the start; diverged runs are counted and "
    "enter no mean, n counts the runs behind a figure; an optimizer with a diverged seed at its trial has failed the "
    "task: worse than everything, speed-up 0",
    "speedup": "from training curves that are smoothed (EMA 0.95), averaged over seeds and replaced by their running "
    "minimum: T / (steps to the level at which the reference ends), or for who ends above it (steps of the reference "
    "to the own final level) / T",
    "target": "final validation loss of the best tuned baseline of the task",
    "aggregate": "interquartile mean over tasks, geometric, of ratios and speed-ups; interval: BCa bootstrap, the "
    "sampling unit is the task, none below 4 tasks; an end is open where failures decide it; shares: Clopper-Pearson",
    "holm": "verdicts of all tasks against one reference, p-values corrected by Holm's method",
    "ratio": "geometric mean over the tasks that both finished, tasks fixed; interval: Welch-Satterthwaite over the "
    "seeds of all tasks",
    "profile": "share of tasks on which an optimizer is within a factor tau of the best at that budget; bands: "
    "percentile bootstrap over tasks",
    "seconds": "run time of the compiled program over its number of runs, training alone, without compilation and "
    "final evaluation; one measurement, hence no interval; programs of many runs use a machine better than those of "
    "few, so this is the cost of the evaluation; see overhead",
    "published": "speed-up over the published envelope of tuned baselines, at the best trial, mean over seeds with "
    "Student's interval, 0 where a seed diverged; over tasks the arithmetic interquartile mean, as published, with "
    "BCa's interval",
    "trained_on": "tasks are held out from a learned optimizer if its training has none of their data sets, and not "
    "their family or only other sizes of it; taken from its card",
    "overhead": "the update alone and the whole training step on the largest task, interleaved with optax.adam",
}
"""How the figures were made; part of summary.json."""


@dataclass(frozen=True)
class Quality:
    """Final losses over all tasks, against one reference."""

    iqm: Figure
    """Interquartile mean of the ratios own / reference; None if failures decide it; n is tasks, failures included."""
    better: Share
    """Tasks with a lower loss."""
    not_worse: Share
    """Tasks with no higher loss."""
    verdicts: dict[str, int]
    """Tasks on which it is better, worse or undecided."""
    holm: dict[str, int]
    """The same, corrected for the number of tasks."""


@dataclass(frozen=True)
class Speedups:
    """Speed-ups over all tasks, against one reference."""

    iqm: Figure
    """Interquartile mean; n is tasks, failures included."""
    faster: Share
    """Tasks with a speed-up above 1."""
    failed: int
    """Tasks behind the figures with speed-up 0."""


@dataclass(frozen=True)
class Versus:
    """An optimizer against one reference over all tasks; on a task where it is the reference the ratios are 1."""

    train: Quality
    """On the final training loss."""
    valid: Quality
    """On the final validation loss."""
    speedup: Speedups | None
    """None without curves."""


@dataclass(frozen=True)
class OverallAtBudget:
    """An optimizer over all tasks, after the first trials."""

    failed: int
    """Tasks with a diverged seed at the best trial."""
    versus: dict[str, Versus]
    """reference -> figures."""
    target: Share | None
    """Tasks on which the validation target was reached; None without curves."""
    published: Figure | None = None
    """Interquartile mean of `AtBudget.published`; None without published curves."""


@dataclass(frozen=True)
class Overall:
    """One optimizer over all tasks, at the best of all its trials; on the final training loss."""

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
    budgets: dict[int, OverallAtBudget]
    """Budget -> figures."""


@dataclass(frozen=True)
class Line:
    """Performance profile of one optimizer; all of the length of `Profile.tau`, not decreasing."""

    share: tuple[float, ...]
    """Share of the tasks."""
    low: tuple[float, ...]
    """Lower edge of the band; equal to `share` below 4 tasks."""
    high: tuple[float, ...]
    """Upper edge of the band."""


@dataclass(frozen=True)
class Profile:
    """Dolan-More performance profile: tasks on which an optimizer is within a factor tau of the best."""

    tau: tuple[float, ...]
    """Factors, from 1, evenly spaced in the logarithm."""
    lines: dict[str, Line]
    """optimizer -> line."""
    area: dict[str, float]
    """optimizer -> area under the line up to tau = 4, of 1; the score of AlgoPerf (Dahl et al. 2023)."""
    tasks: int
    """Tasks behind each line."""


@dataclass(frozen=True)
class Overhead:
    """Cost of an optimizer beside that of optax.adam, measured in the same process, in turns."""

    task: str
    """The task it was measured on."""
    parameters: int
    """Of the model."""
    update_seconds: float
    """One update alone, gradients given; median."""
    update_ratio: float
    """`update_seconds` over those of optax.adam; median of the ratios of neighbouring measurements."""
    step_seconds: float
    """A whole training step: batch, loss, gradient, update; median."""
    step_ratio: float
    """The same over that with optax.adam."""
    state_bytes_per_parameter: float
    """Size of the optimizer's state; 8 for Adam in float32."""


@dataclass(frozen=True)
class TrainedOn:
    """What a learned optimizer was meta-trained on, by its card."""

    distribution: str | None
    """Name of the training distribution; None: not stated."""
    shared: dict[str, list[str]] | None
    """task -> why it is not held out, see `tasks.provenance.shared`; None: not known."""


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
    profiles: dict[int, dict[str, Profile]]
    """Budget -> measure (final_train_loss, final_valid_loss, steps_to_target) -> profile; a failure is in no share."""
    overhead: dict[str, Overhead]
    """optimizer -> cost; empty if it was not measured."""
    notes: dict[str, str]
    """How the figures were made."""
    trained_on: dict[str, TrainedOn] = field(default_factory=dict)
    """learned optimizer -> what it was meta-trained on."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)
