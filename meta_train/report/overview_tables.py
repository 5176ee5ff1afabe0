"""The tables over all tasks."""

from collections.abc import Mapping

from meta_train.evaluate.summary import BEST, Quality, Versus
from meta_train.report.loading import Evaluation
from meta_train.report.markup import MISSING, Cell, interval, number, share, table, words
from meta_train.report.tables import name_cell, seconds

NONE = Cell(MISSING, None, "number")


def overall(evaluation: Evaluation) -> str:
    """One row per optimizer, against the best tuned baseline at the largest budget."""
    rows = []
    for name in evaluation.names:
        at = evaluation.summary.overall[name].budgets.get(evaluation.budget)
        versus = None if at is None else at.versus.get(BEST)
        trials = number(evaluation.summary.budgets.get(name))
        best = evaluation.summary.overall[name].best_baseline
        columns = _figures(versus)
        if versus is None and best:
            columns[0] = Cell(f"is the reference on {best}", None, "number interval")
        rows.append([name_cell(evaluation, name), trials, *columns])
    return table(["optimizer", "trials", *_HEADS], rows)


def memory(evaluation: Evaluation) -> str:
    """Size of the state of each optimizer, as stored with its curves; empty if it was not."""
    rows = []
    for name in evaluation.names:
        sizes = filter(None, (evaluation.state_size(task, name) for task in evaluation.summary.per_task))
        size = next(sizes, None)
        if size is not None:
            rows.append([name_cell(evaluation, name), number(size, 2, " ×")])
    return table(["optimizer", "state, in sizes of the parameters"], rows) if rows else ""


def costs(evaluation: Evaluation) -> str:
    """One row per optimizer: what failed, and time and memory beside optax.adam where that was measured."""
    rows = []
    timed = bool(evaluation.summary.overhead)
    for name in evaluation.names:
        o = evaluation.summary.overall[name]
        at = o.budgets.get(evaluation.budget)
        cost = evaluation.summary.overhead.get(name)
        failed = o.tasks_diverged if at is None else at.failed
        rows.append(
            [
                name_cell(evaluation, name),
                share(at.target) if at and at.target else NONE,
                Cell(f"{failed} of {o.tasks}", failed, "number"),
                Cell(f"{o.diverged_all_trials:,} of {o.runs:,}", o.diverged_all_trials / max(1, o.runs), "number"),
            ]
        )
        if timed:
            measured = [number(cost.step_ratio, 2, " ×"), number(cost.state_bytes_per_parameter, 1)] if cost else []
            rows[-1] += measured or [NONE, NONE]
    heads = ["optimizer", "target reached", "failed tasks", "diverged runs"]
    return table([*heads, *(["step time", "state, bytes per parameter"] if timed else [])], rows)


def budgets(evaluation: Evaluation, name: str) -> str:
    """Of a learned optimizer, one row per reference and budget."""
    o = evaluation.summary.overall[name]
    references = dict.fromkeys(key for at in o.budgets.values() for key in at.versus)
    rows = []
    for reference in sorted(references, key=lambda key: key != BEST):
        for n, at in sorted(o.budgets.items()):
            versus = at.versus.get(reference)
            if versus is not None:
                rows.append([words(reference, "row"), number(n), *_figures(versus), _verdicts(versus.train.holm)])
    return table(["against", "trials", *_HEADS, "Holm"], rows)


_HEADS = [
    "lower",
    "better / undecided / worse",
    "training loss ratio, IQM",
    "validation loss ratio, IQM",
    "speed-up, IQM",
]


def _figures(versus: Versus | None) -> list[Cell]:
    """The columns of `_HEADS`."""
    if versus is None:
        return [NONE] * len(_HEADS)
    speedup = NONE if versus.speedup is None else interval(versus.speedup.iqm, 2)
    losses = [_ratio(versus.train), _ratio(versus.valid)]
    return [share(versus.train.better), _verdicts(versus.train.verdicts), *losses, speedup]


def _ratio(quality: Quality) -> Cell:
    if quality.iqm.mean is None and quality.iqm.n > 0:
        return Cell("failures decide", None, "number interval")
    return interval(quality.iqm)


def _verdicts(counts: Mapping[str, int]) -> Cell:
    better, undecided, worse = counts["better"], counts["undecided"], counts["worse"]
    return Cell(f"{better} / {undecided} / {worse}", better - worse, "number")


def areas(evaluation: Evaluation, measures: Mapping[str, str]) -> str:
    """Area under the performance profiles, at the largest budget."""
    at = evaluation.summary.profiles.get(evaluation.budget, {})
    shown = [measure for measure in measures if measure in at]
    rows = [
        [name_cell(evaluation, name), *(number(at[measure].area.get(name), 3) for measure in shown)]
        for name in evaluation.names
    ]
    heads = [f"{measures[measure]}: area" for measure in shown]
    return table(["optimizer", *heads], rows) if shown else ""


def overhead(evaluation: Evaluation) -> str:
    """Time and memory of each optimizer beside optax.adam."""
    costs = evaluation.summary.overhead
    largest = max([1.0, *(c.update_ratio for c in costs.values()), *(c.step_ratio for c in costs.values())])

    def bar(ratio: float) -> Cell:
        content = f'<span class="bar" style="--part:{ratio / largest:.3f}"></span>{ratio:.2f} ×'
        return Cell(content, ratio, "number")

    rows = []
    for name in (name for name in evaluation.names if name in costs):
        c = costs[name]
        times = [Cell(seconds(c.update_seconds), c.update_seconds, "number"), bar(c.update_ratio)]
        times += [Cell(seconds(c.step_seconds), c.step_seconds, "number"), bar(c.step_ratio)]
        rows.append([name_cell(evaluation, name), *times, number(c.state_bytes_per_parameter, 1)])
    heads = ["optimizer", "update", "of Adam's update", "training step", "of a step with Adam"]
    return table([*heads, "state, bytes per parameter"], rows)
