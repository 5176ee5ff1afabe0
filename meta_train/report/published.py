"""The section of speed-ups over published curves, where there are any."""

from collections.abc import Iterator

from meta_train.evaluate.results import AtBudget
from meta_train.report import tables
from meta_train.report.loading import Evaluation
from meta_train.report.markup import Cell, Section, escape, interval, plural, table, words


def section(evaluation: Evaluation) -> Iterator[Section]:
    """One table: tasks by optimizers, and all tasks in the last row."""
    per_task = {
        task: {name: _at(evaluation, task, name) for name in evaluation.names} for task in evaluation.summary.per_task
    }
    scored = {task: row for task, row in per_task.items() if any(at and at.published for at in row.values())}
    if not scored:
        return
    rows = [
        [words(task, "row"), *(interval(at.published if at else None, 2) for at in row.values())]
        for task, row in scored.items()
    ]
    heads = ["task", *(tables.name_head(evaluation, name) for name in evaluation.names)]
    caption = (
        "Steps that the published envelope of tuned baselines needs to the final training loss of the optimizer, over "
        "the optimizer's own steps, at its best trial: above 1 is faster. Mean and 95 % interval over "
        f"{plural(len(evaluation.summary.seeds), 'seed')}; 0 where a seed diverged. Last row: the arithmetic "
        "interquartile mean over tasks, as published, with the bootstrap's interval. The envelope is the lowest loss "
        "of several optimizers and rates at every step, over 100,000 steps; its moments are 196 steps apart, and 0 is "
        "a loss above where it starts."
    )
    content = table(heads, [*rows, [words(f"all {len(scored)} tasks", "row"), *_overall(evaluation)]])
    yield Section("published", "On the published scale", f'<p class="caption">{escape(caption)}</p>{content}')


def _overall(evaluation: Evaluation) -> list[Cell]:
    at = [evaluation.summary.overall[name].budgets.get(evaluation.budget) for name in evaluation.names]
    return [interval(a.published if a else None, 2) for a in at]


def _at(evaluation: Evaluation, task: str, name: str) -> AtBudget | None:
    result = evaluation.result(task, name)
    return None if result is None else result.budgets.get(evaluation.budget)
