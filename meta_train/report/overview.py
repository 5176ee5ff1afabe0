"""The sections over all tasks: how it went, against whom, at which budget, how fast, and at what cost."""

import math
from collections.abc import Iterator

import numpy as np

from meta_train.evaluate.summary import BEST, AtBudget, Overall
from meta_train.report import overview_figures, overview_tables, published, svg, tables, task_figures
from meta_train.report.loading import Evaluation
from meta_train.report.markup import Section, details, escape, figure, interval, listed, plural, share
from meta_train.report.overview_figures import Estimate

MEASURES = {
    "final_train_loss": "Final training loss",
    "final_valid_loss": "Final validation loss",
    "steps_to_target": "Steps to the target",
}
"""Of the performance profiles, in the order shown."""


def sections(evaluation: Evaluation) -> Iterator[Section]:
    """From the table of all optimizers to their cost; what there is nothing to say of is left out."""
    yield Section("overall", "Over all tasks", _overall(evaluation))
    if any(len(at.versus) > 0 for o in evaluation.summary.overall.values() for at in o.budgets.values()):
        yield Section("by-task", "Loss ratio by task", _by_task(evaluation))
        yield Section("ratios", "Ratios with intervals", _ratios(evaluation))
        yield from _speedups(evaluation)
    yield from published.section(evaluation)
    if evaluation.summary.profiles and len(evaluation.names) > 1:
        yield Section("profiles", "Performance profiles", _profiles(evaluation))
    if any(at.versus for o in _learned(evaluation) for at in o.budgets.values()):
        yield Section("budgets", "Against each baseline, at each budget", _budgets(evaluation))
    yield from _sensitivity(evaluation)
    yield Section("overhead", "Overhead", _overhead(evaluation))


def anchors(evaluation: Evaluation) -> dict[str, str]:
    """task -> identity of its part of the page."""
    return {task: f"task-{k}" for k, task in enumerate(evaluation.summary.per_task)}


def outcome(evaluation: Evaluation) -> str:
    """The result in a paragraph per learned optimizer."""
    lines = []
    for name in evaluation.names:
        o = evaluation.summary.overall[name]
        against = {n: at.versus[BEST] for n, at in o.budgets.items() if BEST in at.versus}
        if o.kind != "learned" or not against:
            continue
        budget, versus = max(against.items())
        verdicts, speedup = versus.train.verdicts, versus.speedup
        less = [f"{v.train.better.count} with {plural(n, 'trial')}" for n, v in sorted(against.items()) if n != budget]
        ends = f" Where the baselines get less tuning, on {listed(less)}." if less else ""
        speed = "" if speedup is None else f", of the speed-ups {interval(speedup.iqm).content}"
        lines.append(
            f'<p class="lead"><strong>{escape(name)}</strong> ends with a lower training loss than the best tuned '
            f"baseline ({plural(budget, 'trial')}) on {share(versus.train.better, 'tasks').content}; the difference is "
            f"significant on {verdicts['better']} of them, and on {verdicts['worse']} where the baseline is lower. "
            f"Interquartile mean of the loss ratios {interval(versus.train.iqm).content}{speed}.{ends}</p>"
        )
    return "".join(lines)


def _learned(evaluation: Evaluation) -> list[Overall]:
    return [o for o in evaluation.summary.overall.values() if o.kind == "learned"]


def _overall(evaluation: Evaluation) -> str:
    budget = evaluation.budget
    caption = (
        f"Against the best tuned baseline of each task, at {plural(budget, 'trial')} per baseline; a learned "
        "optimizer has one, with +tuned those of a baseline. Lower: tasks on which the final training loss is lower. "
        "Better, undecided, worse: tasks by Student's paired test over seeds. Ratios below 1 and speed-ups above 1 are "
        "better. IQM: interquartile mean over tasks. Brackets are 95 % intervals; … marks an end that failures leave "
        "open."
    )
    below = (
        "Target: the final validation loss of the best tuned baseline. Failed: tasks with a diverged seed at the best "
        "trial. Diverged: of all runs, tuning included. Step time: a training step over one with optax.adam."
    )
    return (
        f'{overview_tables.overall(evaluation)}<p class="caption">{caption}</p>'
        f'{overview_tables.costs(evaluation)}<p class="caption">{below}</p>'
    )


def _by_task(evaluation: Evaluation) -> str:
    return (
        '<p class="caption">Final training loss over that of the best tuned baseline of the task, at the largest '
        "budget: below 1 is better. Tinted where the difference over seeds is significant: blue is better, orange "
        f"worse. n = {plural(len(evaluation.summary.seeds), 'seed')}, geometric mean.</p>"
    ) + tables.by_task(evaluation, anchors(evaluation))


def _budgets(evaluation: Evaluation) -> str:
    caption = (
        "Trials: what each baseline may try; a learned optimizer has one at every budget, with +tuned those of a "
        "baseline. Columns as in the table over all tasks; Holm: verdicts corrected for the number of tasks."
    )
    parts = [
        f"<h3>{escape(name)}</h3>{overview_tables.budgets(evaluation, name)}"
        for name in evaluation.names
        if evaluation.kind(name) == "learned"
    ]
    return f'<p class="caption">{caption}</p>{"".join(parts)}'


def _at(evaluation: Evaluation, task: str, name: str) -> AtBudget | None:
    result = evaluation.result(task, name)
    return None if result is None else result.budgets.get(evaluation.budget)


def _subjects(evaluation: Evaluation) -> list[str]:
    """The learned optimizers, or the baselines where there is none."""
    return [name for name in evaluation.names if evaluation.kind(name) == "learned"] or evaluation.names


def _forest(evaluation: Evaluation, name: str, estimates: list[Estimate], what: str, *, ascending: bool) -> str:
    i = evaluation.names.index(name)
    axes = overview_figures.forest(estimates, i, what, ascending=ascending)
    drawing = svg.render(axes, f"{'ratio' if ascending else 'speedup'}-{i}", f"{what} of {name} by task")
    return f"<div><h3>{escape(name)}</h3>{drawing}</div>"


def _ratios(evaluation: Evaluation) -> str:
    drawings = []
    for name in _subjects(evaluation):
        estimates = []
        for task in evaluation.summary.per_task:
            at = _at(evaluation, task, name)
            if at is None or BEST not in at.train:
                continue
            versus = at.train[BEST]
            mark = "failed" if versus.verdict == "worse" else "baseline failed"
            estimates.append(Estimate(task, *_ends(versus.ratio), versus.verdict != "undecided", mark))
        if estimates:
            drawings.append(_forest(evaluation, name, estimates, "ratio of final training losses", ascending=True))
    caption = (
        "Final training loss over that of the best tuned baseline of the task, best task first: left of 1 is better. "
        f"Geometric mean and 95 % interval over {plural(len(evaluation.summary.seeds), 'seed')}, paired; filled where "
        "the difference is significant. Intervals that leave the axis are cut."
    )
    return figure(drawings, caption, "forest")


def _ends(f: object) -> tuple[float | None, float | None, float | None]:
    return getattr(f, "mean", None), getattr(f, "low", None), getattr(f, "high", None)


def _speedups(evaluation: Evaluation) -> Iterator[Section]:
    drawings = []
    for name in _subjects(evaluation):
        estimates = []
        for task in evaluation.summary.per_task:
            at = _at(evaluation, task, name)
            if at is None or BEST not in at.speedup:
                continue
            s = at.speedup[BEST]
            value = s.value if s.case in ("reached", "behind") else None
            estimates.append(Estimate(task, value, None, None, s.case == "reached", s.case.replace("_", " ")))
        if estimates:
            drawings.append(_forest(evaluation, name, estimates, "speed-up in steps", ascending=False))
    caption = (
        "How many times fewer steps than the best tuned baseline of the task needs to its own final training loss: "
        "right of 1 is faster. Hollow where that loss is not reached: then the steps in which the baseline reached the "
        "final loss of the optimizer, over all steps. From curves averaged over seeds, so without intervals by task."
    )
    if drawings:
        yield Section("speedups", "Speed-up by task", figure(drawings, caption, "forest"))


def _profiles(evaluation: Evaluation) -> str:
    index = {name: i for i, name in enumerate(evaluation.names)}
    parts = {}
    for n, measures in sorted(evaluation.summary.profiles.items(), reverse=True):
        drawings, tasks = [], 0
        for measure, title in MEASURES.items():
            if measure not in measures or not any(any(line.share) for line in measures[measure].lines.values()):
                continue
            profile = measures[measure]
            lines = {index[name]: line for name, line in profile.lines.items() if name in index}
            axes = overview_figures.profile(profile.tau, lines)
            drawing = svg.render(axes, f"profile-{n}-{measure}", f"Performance profile, {title}, {n} trials")
            drawings.append(f'<div class="panel">{title}{drawing}</div>')
            tasks = profile.tasks
        if drawings:
            parts[n] = (figure(drawings, ""), tasks)
    if not parts:
        return "<p>No run finished: nothing to draw.</p>"
    (largest, (first, n_tasks)), *others = parts.items()
    caption = (
        f"Share of the {plural(n_tasks, 'task')} on which an optimizer is within a factor of the best optimizer of the "
        f"task, at {plural(largest, 'trial')} per baseline: higher is better, and the start of a line is the share of "
        "tasks on which it is the best; the axis ends where no line rises any more. Bands: 95 %, bootstrap over tasks."
    )
    smaller = "".join(details(f"At {plural(n, 'trial')} per baseline", content) for n, (content, _) in others)
    table = overview_tables.areas(evaluation, MEASURES)
    return f'{first}<p class="caption">{caption}</p>{table}{smaller}'


def _sensitivity(evaluation: Evaluation) -> Iterator[Section]:
    sweeps, references, ratios = {}, {}, {}
    for task, results in evaluation.summary.per_task.items():
        losses = [r.final_train_loss.mean for r in results.values() if r.kind == "baseline"]
        best = min((x for x in losses if x is not None), default=None)
        if best is None or best <= 0:
            continue
        of_task, fixed = task_figures.rates_of_task(evaluation, task)
        for i, sweep in of_task.items():
            sweeps.setdefault(i, []).append(sweep)
            references.setdefault(i, []).append(best)
        for i, name in enumerate(evaluation.names):
            if (r := evaluation.result(task, name)) is not None and r.learning_rate is None:
                ratios.setdefault(i, []).append(math.inf if r.diverged else fixed[i].mean / best)
    quantiles = {i: float(np.quantile(r, 0.5, method="lower")) for i, r in ratios.items()}
    medians = {i: median for i, median in quantiles.items() if math.isfinite(median)}
    axes = overview_figures.sensitivity(sweeps, references, medians) if sweeps else None
    if axes is None:
        return
    caption = (
        "Final training loss at each learning rate, constant schedule and default weight decay, over that of the best "
        f"tuned baseline of the task: median over {plural(max(map(len, sweeps.values())), 'task')}, bands from the "
        "first to the third quartile; a task on which a seed diverged counts as infinite, × where that is the median. "
        "Horizontal lines: learned optimizers, which have no rate to tune, failures counted alike; none where the "
        "median is infinite."
    )
    drawing = svg.render(axes, "sensitivity", "Final training loss against the learning rate")
    yield Section("rates", "Sensitivity to the learning rate", figure([drawing], caption, "wide"))


def _overhead(evaluation: Evaluation) -> str:
    costs = evaluation.summary.overhead
    if not costs:
        return f"<p>Times were not measured in this evaluation.</p>{overview_tables.memory(evaluation)}"
    first = next(iter(costs.values()))
    caption = (
        f"Measured on {escape(first.task)}, {plural(first.parameters, 'parameter')}, in turns with optax.adam in the "
        "same process; medians. Update: gradients given. Training step: batch, loss, gradient and update. State: size "
        "of the optimizer's state."
    )
    return f'{overview_tables.overhead(evaluation)}<p class="caption">{caption}</p>'
