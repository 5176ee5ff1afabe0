"""The comparison as text: tables of the tasks, and one over all tasks.

Up to `DETAILED` tasks have a table each, more share one.
"""

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meta_train.evaluate.statistics import LEVEL, Figure, Share
from meta_train.evaluate.summary import BEST, Result, Summary

PLAIN_WIDTH = 160
"""Columns where there is no terminal to ask."""
DETAILED = 8
"""Tasks that have a table each at most."""
NAME = 24
"""Columns of a name at most; a longer one is folded."""

LEGEND = (
    f"± and brackets: {LEVEL:.0%} intervals over seeds, the same initialisations and batches for all. trials: tuning "
    "budget; shown is the best by final training loss (final valid: by that) on these very seeds. "
    f"vs {BEST}: ratio of final training losses, paired by seed. speed-up: steps of the best baseline / own, to equal "
    "training loss. to target: steps to the final validation loss of the best baseline. diverged: seeds at the best "
    "trial (runs of all). s/run: without compilation; no measure of overhead."
)
"""Under the tables of the tasks."""
PUBLISHED = (
    "published: steps that the published envelope of tuned baselines needs to the same training loss, over own steps; "
    "interquartile mean of so many tasks, 0 for a failure."
)
"""Where there are such figures."""


def console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for a table in a file."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=PLAIN_WIDTH)


def print_summary(summary: Summary, to: Console) -> None:
    """All tables."""
    if len(summary.per_task) <= DETAILED:
        for task, results in summary.per_task.items():
            to.print(task_table(task, results, summary))
        to.print(LEGEND, highlight=False)
    else:
        to.print(combined_table(summary))
    if len(summary.per_task) > 1:
        to.print(overall_table(summary))


def task_table(task: str, results: dict[str, Result], summary: Summary) -> Table:
    """One row per optimizer, at its best trial, in order of the final training loss."""
    table = _table(f"{escape(task)}: {_terms(summary)}", results)
    table.caption = _caption(results)
    losses = ("final train", "final valid", "mean train", f"vs {BEST}", "speed-up", "to target")
    published = any(at.published for r in results.values() for at in r.budgets.values())
    for name in ("trials", "best trial", *losses, *(["published"] if published else []), "diverged", "s/run"):
        table.add_column(name, justify="right", overflow="fold")
    for name in sorted(results, key=lambda name: _rank(results[name])):
        r = results[name]
        at = r.budgets[max(r.budgets)]
        speedup = at.speedup.get(BEST)
        table.add_row(
            escape(name),
            str(r.trials),
            _settings(r),
            with_interval(r.final_train_loss),
            with_interval(at.final_valid_loss),
            with_interval(r.mean_train_loss),
            _versus(r),
            "-" if speedup is None else "inf" if speedup.value is None else f"{speedup.value:.3g}",
            "-" if at.target is None else "never" if at.target.steps is None else f"{at.target.steps:.0f}",
            *(["-" if at.published is None else with_interval(at.published)] if published else []),
            _diverged(r),
            f"{r.seconds_per_run:.3g}",
            style="bold" if r.kind == "learned" else None,
        )
    return table


def combined_table(summary: Summary) -> Table:
    """One row per task: the final training loss of every learned optimizer, and of the baselines the best."""
    learned = [name for name, o in summary.overall.items() if o.kind == "learned"][:4]
    baselines = [name for name, o in summary.overall.items() if o.kind == "baseline"]
    shown = [*learned, *(baselines if len(baselines) <= 4 else ())]
    table = _table(f"final training loss: {_terms(summary)}", summary.per_task, "task")
    for name in (*map(escape, shown), *((BEST,) if baselines else ()), *(("decided",) if learned else ())):
        table.add_column(name, justify="right", overflow="fold")
    for task, results in summary.per_task.items():
        best = min(baselines, key=lambda name: _rank(results[name]), default=None)
        cells = [_lost(results[name]) or with_interval(results[name].final_train_loss) for name in shown]
        if best is not None:
            loss = "" if best in shown else f"{with_interval(results[best].final_train_loss)} "
            cells.append(f"{loss}{escape(best)}")
        if learned:
            comparisons = [results[name].comparison for name in learned]
            cells.append(", ".join("-" if c is None else c.verdict for c in comparisons))
        table.add_row(escape(task), *cells)
    hidden = [name for name in summary.overall if name not in (*shown, *baselines)]
    more = f" Left out: {escape(', '.join(hidden))}, in summary.json." if hidden else ""
    table.caption = (
        f"± {LEVEL:.0%} over seeds. lost: diverged seeds at the best trial. decided: {escape(', '.join(learned))} "
        f"against the best baseline of the task.{more}"
        if learned
        else f"± {LEVEL:.0%} over seeds. lost: diverged seeds at the best trial."
    )
    return table


def overall_table(summary: Summary) -> Table:
    """One row per optimizer and budget of the baselines, against the best baseline of each task."""
    table = _table(f"overall: {len(summary.per_task)} tasks, {_terms(summary)}", summary.overall)
    names = ("budget", "train ratio", "tasks better", "+ / ? / -", "valid ratio", "valid not worse", "speed-up")
    published = any(at.published for o in summary.overall.values() for at in o.budgets.values())
    for name in (*names, *(["published"] if published else []), "target reached", "failed", "update"):
        table.add_column(name, justify="right", overflow="fold")
    for name, o in sorted(
        summary.overall.items(), key=lambda item: (item[1].kind != "learned", _order(summary, item[0]))
    ):
        for n, at in sorted(o.budgets.items(), reverse=True):
            if o.kind == "baseline" and n != max(o.budgets):
                continue
            versus = at.versus.get(BEST)
            v = None if versus is None else versus.train.verdicts
            cost = summary.overhead.get(name)
            table.add_row(
                escape(name),
                str(n),
                "-" if versus is None else _range(versus.train.iqm),
                "-" if versus is None else _share(versus.train.better),
                "-" if v is None else f"{v['better']} / {v['undecided']} / {v['worse']}",
                "-" if versus is None else _range(versus.valid.iqm),
                "-" if versus is None else _share(versus.valid.not_worse),
                "-" if versus is None or versus.speedup is None else _range(versus.speedup.iqm),
                *([_published(at.published)] if published else []),
                "-" if at.target is None else f"{at.target.count}/{at.target.n}",
                str(at.failed),
                "-" if cost is None else f"{cost.update_ratio:.2g}x",
                style="bold" if o.kind == "learned" else None,
            )
    table.caption = (
        "against the best baseline of each task, tuned with the trials of `budget`; learned optimizers have one "
        "trial, with +tuned those of a baseline. ratio, speed-up: interquartile means over tasks "
        f"[{LEVEL:.0%}, bootstrap over tasks, from 4 tasks on], failures counted as the worst, - where they decide. "
        "+ / ? / -: better, undecided, worse on the final training loss, Student's paired test over seeds, without "
        "correction. "
        "target: validation loss of the best baseline. failed: tasks with a diverged seed. update: time in those of "
        "optax.adam." + (f" {PUBLISHED}" if published else "")
    )
    return table


def with_interval(figure: Figure) -> str:
    """`0.1405 ± 0.0021`; the half width alone says enough, the interval is symmetric."""
    if figure.mean is None:
        return "-"
    if figure.high is None:
        return f"{figure.mean:.4g}"
    return f"{figure.mean:.4g} ± {figure.high - figure.mean:.2g}"


def _table(title: str, names: Iterable[str], first: str = "optimizer") -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    # A column of fixed width is not squeezed, where one of least width makes the table wider than the page.
    table.add_column(first, overflow="fold", width=min(NAME, max(map(len, [first, *names]))))
    return table


def _terms(summary: Summary) -> str:
    """What the numbers of every table depend on."""
    budgets = sorted({n for name, n in summary.budgets.items() if summary.overall[name].kind == "baseline"})
    tuning = f", {' or '.join(map(str, budgets))} trials per baseline" if budgets else ""
    return f"{summary.configuration['steps']} steps, {len(summary.seeds)} seeds{tuning}"


def _rank(result: Result) -> tuple[int, bool, float]:
    mean = result.final_train_loss.mean
    return result.diverged, mean is None, mean or 0.0


def _order(summary: Summary, name: str) -> tuple[bool, float]:
    versus = summary.overall[name].budgets[max(summary.overall[name].budgets)].versus.get(BEST)
    mean = None if versus is None else versus.train.iqm.mean
    return mean is None, mean or 0.0


def _range(figure: Figure) -> str:
    if figure.mean is None:
        return "-"
    if figure.low is None and figure.high is None:
        return f"{figure.mean:.3g}"
    low, high = ("…" if end is None else f"{end:.3g}" for end in (figure.low, figure.high))
    return f"{figure.mean:.3g} [{low}, {high}]"


def _published(figure: Figure | None) -> str:
    return "-" if figure is None else f"{_range(figure)} of {figure.n}"


def _share(share: Share) -> str:
    return f"{share.count}/{share.n} [{share.low:.0%}, {share.high:.0%}]" if share.n else "-"


def _settings(r: Result) -> str:
    """Rate, schedule and weight decay of the best trial."""
    if r.learning_rate is None:
        return "-"
    rate = f"{r.learning_rate:g}" + (f" ({r.rate_at_edge}!)" if r.rate_at_edge else "")
    rest = [] if r.schedule in (None, "constant") else [r.schedule]
    return " ".join([rate, *rest, *([f"wd {r.weight_decay:g}"] if r.weight_decay else [])])


def _versus(result: Result) -> str:
    comparison = result.comparison
    if comparison is None:
        return BEST if result.kind == "baseline" and result.final_train_loss.n else "-"
    return f"{_range(comparison.ratio)} {comparison.verdict}"


def _lost(result: Result) -> str:
    return f"{result.diverged} of {result.seeds} lost" if result.diverged else ""


def _diverged(result: Result) -> str:
    """At the best trial, and over all trials where there are several."""
    best = f"{result.diverged}/{result.seeds}"
    return best if result.trials == 1 else f"{best} ({result.diverged_all_trials}/{result.trials * result.seeds})"


def _caption(results: dict[str, Result]) -> str:
    compiling = sum(r.compile_seconds for r in results.values())
    edges = [escape(name) for name, r in results.items() if r.rate_at_edge]
    wider = "(lowest!) (highest!): the best rate is the end of the grid, a wider one could do better: "
    return f"compiled in {compiling:.1f} s. {wider + ', '.join(edges) + '.' if edges else ''}".rstrip()
