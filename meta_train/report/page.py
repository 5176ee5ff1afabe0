"""The page: sections put together from the tables and figures."""

from importlib import resources
from string import Template
from typing import Any

from meta_train.evaluate.summary import Summary
from meta_train.report import overview, svg, tables, task_figures
from meta_train.report.loading import Evaluation
from meta_train.report.markup import Section, details, escape, figure, listed, plural


def page(evaluation: Evaluation) -> str:
    """The whole document, free of references to anything outside it."""
    read = lambda name: (resources.files("meta_train.report") / name).read_text()
    with svg.style():
        sections = [*overview.sections(evaluation), tasks(evaluation), failed(evaluation), notes(evaluation)]
    hidden = "".join(
        f"body:has(#show-{i}:not(:checked)) .optimizer-{i}{{display:none}}" for i in range(len(evaluation.names))
    )
    suite = escape(evaluation.summary.configuration.get("suite", "evaluation"))
    return Template(read("page.html")).substitute(
        title=f"{suite}: {escape(listed(evaluation.names))}",
        css=read("page.css"),
        hidden=hidden,
        js=read("page.js"),
        suite=suite,
        contents=contents(sections),
        headline=headline(evaluation),
        legend=legend(evaluation),
        sections="\n".join(s.html() for s in sections),
    )


def contents(sections: list[Section]) -> str:
    """Entries of the table of contents."""
    inner = lambda s: "".join(f'<li><a href="#{identity}">{escape(title)}</a></li>' for identity, title in s.inner)
    return "".join(
        f'<li><a href="#{s.identity}">{escape(s.title)}</a>{f"<ol>{inner(s)}</ol>" if s.inner else ""}</li>'
        for s in sections
    )


def legend(evaluation: Evaluation) -> str:
    """The colours, as switches that need no script."""
    return "".join(
        f'<label class="{evaluation.kind(name)}"><input type="checkbox" id="show-{i}" checked>'
        f'<i style="color:var(--c{i % svg.PALETTE})"></i><span>{escape(name)}</span></label>'
        for i, name in enumerate(evaluation.names)
    )


def headline(evaluation: Evaluation) -> str:
    """What was compared with what, and how it went."""
    summary = evaluation.summary
    configuration = summary.configuration
    learned = [name for name in evaluation.names if evaluation.kind(name) == "learned"]
    baselines = [name for name in evaluation.names if evaluation.kind(name) == "baseline"]
    subject = listed([escape(name) for name in learned or baselines])
    versus = f" against {plural(len(baselines), 'tuned baseline')}" if learned and baselines else ""
    n_tasks = len(summary.per_task)
    tuning = sorted({n for o in summary.overall.values() for n in o.budgets})
    budgets = f"{listed([str(n) for n in tuning])} trial{'' if tuning[-1:] == [1] else 's'}"
    also = ", with +tuned those of a baseline" if any(name.endswith("+tuned") for name in learned) else ""
    facts: list[tuple[str, Any]] = [
        ("suite", f"{configuration.get('suite', '')}: {plural(n_tasks, 'task')}"),
        ("learned optimizers", ", ".join(learned) or "none"),
        ("baselines", ", ".join(baselines) or "none"),
        ("tuning budgets", f"{budgets} per baseline, 1 for a learned optimizer{also}" if baselines else "none"),
        (
            "training runs",
            f"{configuration.get('steps'):,} steps, {plural(len(summary.seeds), 'seed')} per trial, from seed "
            f"{configuration.get('seed')}",
        ),
        ("meta-trained on", "; ".join(f"{name}: {_training(summary, name)}" for name in learned)),
        ("versions", ", ".join(f"{k} {v}" for k, v in (configuration.get("versions") or {}).items())),
    ]
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
    warning = ""
    if evaluation.missing:
        asked = len(configuration.get("tasks", ())) * len(configuration.get("optimizers", ()))
        warning = (
            f'<p class="warning">Not finished: {len(evaluation.missing):,} of {asked:,} pairs of task and optimizer '
            'are missing, see <a href="#failures">failures</a>. Figures over tasks are of what is there.</p>'
        )
    warning += "".join(_seen(evaluation, name) for name in learned)
    return (
        f"<h1>{subject}{versus} on {plural(n_tasks, 'task')}</h1>{overview.outcome(evaluation)}{warning}<dl>{rows}</dl>"
    )


def _training(summary: Summary, name: str) -> str:
    """The training distribution of a learned optimizer, as far as it is known."""
    seen = summary.trained_on.get(name)
    if seen is None or seen.distribution is None:
        return "not stated"
    return seen.distribution if seen.shared is not None else f"{seen.distribution}, a distribution not known here"


def _seen(evaluation: Evaluation, name: str) -> str:
    """A warning where the suite holds what an optimizer was meta-trained on."""
    seen = evaluation.summary.trained_on.get(name)
    if seen is None or not seen.shared:
        return ""
    why = "; ".join(f"{escape(task)}: {escape(', '.join(reasons))}" for task, reasons in seen.shared.items())
    tasks = f"{len(seen.shared)} of {plural(len(evaluation.summary.per_task), 'task')}"
    return (
        f'<p class="warning">{escape(name)} was made on {escape(seen.distribution)}, and {tasks} are not held '
        f"out from it: {why}. Its figures there do not say how it does elsewhere.</p>"
    )


def tasks(evaluation: Evaluation) -> Section:
    """Curves, rates and figures, task by task."""
    anchors = overview.anchors(evaluation)
    seeds = len(evaluation.summary.seeds)
    over = f"the median of {seeds} seeds, bands from the lowest to the highest" if seeds > 1 else "one seed, no bands"
    caption = (
        '<p class="caption">Every optimizer at its best trial by final training loss; validation losses, drawn and '
        f"listed, are of the best trial by final validation loss. Lines are {over}, of the runs that did not diverge; "
        "× marks where a run diverged. Training loss (solid): mean over windows of steps, at most "
        f"{task_figures.POINTS} points, the first step alone; the axis ends at {task_figures.HEADROOM:g} times the "
        "loss at the start. Validation loss (dashed): before the first update, after the last, and evenly between. "
        "Loss by rate: final training loss, mean over seeds, constant schedule and default weight decay; hollow where "
        "some seeds diverged, × where all did; horizontal lines, with 95 % intervals, are optimizers without one: "
        "dashed where some seeds diverged, × at the right edge where all did.</p>"
    )
    blocks = [_task(evaluation, task, anchor) for task, anchor in anchors.items()]
    inner = tuple((anchor, task) for task, anchor in anchors.items())
    return Section("tasks", "Task by task", caption + "".join(blocks), inner)


def _task(evaluation: Evaluation, task: str, anchor: str) -> str:
    index = {name: i for i, name in enumerate(evaluation.names)}
    learned = [i for name, i in index.items() if evaluation.kind(name) == "learned"]
    curves = {i: c for name, i in index.items() if (c := evaluation.curves(task, name)) is not None}
    sweeps, fixed = task_figures.rates_of_task(evaluation, task)
    drawings = []
    for what, title, axes in (
        ("train", "Training loss", task_figures.training(curves, learned)),
        ("valid", "Validation loss", task_figures.validation(curves, learned)),
        ("rate", "Final training loss by learning rate", task_figures.rates(sweeps, fixed)),
    ):
        if axes is not None:
            drawing = svg.render(axes, f"{anchor}-{what}", f"{title} of {task}")
            drawings.append(f'<div class="panel">{title}{drawing}</div>')
    empty = "" if drawings else "<p>No run finished: nothing to draw.</p>"
    return (
        f'<div class="task" id="{anchor}"><h3>{escape(task)}</h3>{empty}{figure(drawings, "") if drawings else ""}'
        f"{details('Numbers', tables.numbers(evaluation, task))}</div>"
    )


def failed(evaluation: Evaluation) -> Section:
    """What diverged, and what is missing."""
    parts = []
    if evaluation.missing:
        rows = "".join(f"<li>{escape(task)}: {escape(name)}</li>" for task, name in evaluation.missing)
        parts.append(f"<p>Not finished:</p><ul>{rows}</ul>")
    reported, n = tables.failures(evaluation, reported=True)
    explanation = (
        "At the trials that the figures are of. The runs enter no mean; the step is that of the first loss that is "
        "not finite."
    )
    parts.append(f"<h3>{plural(n, 'diverged run')} behind the figures</h3>")
    parts.append(
        f"<p>{explanation}</p>{reported}" if n else "<p>At the trials that the figures are of, no run diverged.</p>"
    )
    tuning, n = tables.failures(evaluation, reported=False)
    parts.append(f"<h3>{plural(n, 'diverged run')} in tuning</h3>")
    if n:
        parts.append("<p>At other trials: rates too high for the task are part of every sweep.</p>")
        parts.append(details("Every one of them", tuning))
    else:
        parts.append("<p>None.</p>")
    return Section("failures", "What failed", "".join(parts))


def notes(evaluation: Evaluation) -> Section:
    """How the figures were made."""
    entries = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in evaluation.summary.notes.items())
    return Section("notes", "How the figures were made", f'<dl class="notes">{entries}</dl>')
