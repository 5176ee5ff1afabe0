"""The comparison as text: one table per task, and a last one over all tasks."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meta_train.evaluate.statistics import LEVEL, Figure
from meta_train.evaluate.summary import Comparison, Result, Summary

PLAIN_WIDTH = 150
"""Columns where there is no terminal to ask."""


def console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for a table in a file."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=PLAIN_WIDTH)


def print_summary(summary: Summary, to: Console) -> None:
    """All tables."""
    for task, results in summary.per_task.items():
        to.print(task_table(task, results, summary))
    if len(summary.per_task) > 1:
        to.print(overall_table(summary))


def task_table(task: str, results: dict[str, Result], summary: Summary) -> Table:
    """One row per optimizer, at its best trial, in order of the mean training loss."""
    steps = summary.configuration["steps"]
    table = Table(title=f"{escape(task)}: {steps} steps", title_justify="left", caption=_caption(results, summary))
    table.caption_justify = "left"
    table.add_column("optimizer", overflow="fold")
    losses = ("mean loss", "final train", "final valid", "vs best baseline")
    for name in ("trials", "best rate", *losses, "diverged", "s/run"):
        table.add_column(name, justify="right", overflow="fold")
    loss = lambda name: results[name].mean_train_loss.mean
    for name in sorted(results, key=lambda name: (loss(name) is None, loss(name))):
        r = results[name]
        rate = "-" if r.learning_rate is None else f"{r.learning_rate:g}"
        table.add_row(
            escape(name),
            str(r.trials),
            f"{rate} ({r.rate_at_edge}!)" if r.rate_at_edge else rate,
            with_interval(r.mean_train_loss),
            with_interval(r.final_train_loss),
            with_interval(r.final_valid_loss),
            _versus(r),
            _diverged(r),
            f"{r.seconds_per_run:.3g}",
            style="bold" if r.kind == "learned" else None,
        )
    return table


def overall_table(summary: Summary) -> Table:
    """One row per optimizer over all tasks."""
    table = Table(title=f"overall: {len(summary.per_task)} tasks", title_justify="left", caption_justify="left")
    table.caption = "ratio of mean training losses to the best tuned baseline of each task, geometric mean over tasks"
    table.add_column("optimizer", overflow="fold")
    for name in (
        "ratio",
        "tasks compared",
        "better / undecided / worse",
        "best baseline",
        "diverged runs",
    ):
        table.add_column(name, justify="right", overflow="fold")
    for name, o in sorted(summary.overall.items(), key=lambda item: (item[1].ratio.mean is None, item[1].ratio.mean)):
        v = o.verdicts
        table.add_row(
            escape(name),
            _range(o.ratio),
            f"{o.tasks_compared} of {o.tasks}",
            f"{v['better']} / {v['undecided']} / {v['worse']}",
            str(o.best_baseline),
            f"{o.diverged_all_trials} of {o.runs}",
            style="bold" if o.kind == "learned" else None,
        )
    return table


def with_interval(figure: Figure) -> str:
    """`0.1405 ± 0.0021`; the half width alone says enough, the interval is symmetric."""
    if figure.mean is None:
        return "-"
    if figure.high is None:
        return f"{figure.mean:.4g}"
    return f"{figure.mean:.4g} ± {figure.high - figure.mean:.2g}"


def _range(figure: Figure) -> str:
    if figure.mean is None:
        return "-"
    if figure.low is None:
        return f"{figure.mean:.3g}"
    return f"{figure.mean:.3g} [{figure.low:.3g}, {figure.high:.3g}]"


def _versus(result: Result) -> str:
    comparison: Comparison | None = result.comparison
    if comparison is None:
        return "best baseline" if result.kind == "baseline" and result.mean_train_loss.n else "-"
    return f"{_range(comparison.ratio)} {comparison.verdict}"


def _diverged(result: Result) -> str:
    """At the best trial, and over all trials where there are several."""
    best = f"{result.diverged}/{result.seeds}"
    return best if result.trials == 1 else f"{best} ({result.diverged_all_trials}/{result.trials * result.seeds})"


def _caption(results: dict[str, Result], summary: Summary) -> str:
    compiling = sum(r.compile_seconds for r in results.values())
    lines = [
        "mean loss: training loss averaged over all steps. "
        f"± and [ ]: {LEVEL:.0%} intervals over {len(summary.seeds)} seeds, the same initialisations and batches "
        "for all. trials: tuning budget; shown is the best by mean loss on these very seeds. vs best baseline: "
        "ratio of mean losses, paired by seed. diverged: seeds at the best rate (runs of all trials). "
        f"s/run: of the whole program, without compilation ({compiling:.1f} s in all); no measure of overhead."
    ]
    edges = [escape(name) for name, r in results.items() if r.rate_at_edge]
    if edges:
        lines.append(
            "(lowest!) (highest!): the best rate is the end of the grid, a wider one could do better: "
            f"{', '.join(edges)}."
        )
    return "\n".join(lines)
