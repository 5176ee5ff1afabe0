"""The tables of a report."""

import math
from collections.abc import Sequence

from meta_train.evaluate.store import Row
from meta_train.evaluate.summary import BEST, Result
from meta_train.report.loading import Evaluation
from meta_train.report.markup import MISSING, Cell, decimals, escape, interval, number, plus_minus, table, words


def name_cell(evaluation: Evaluation, name: str) -> Cell:
    """An optimizer with its colour; heads a row."""
    i = evaluation.names.index(name)
    dot = f'<span class="dot" style="background:var(--c{i % 8})"></span>'
    short = " short" if len(name) <= 24 else ""
    return Cell(
        f'<span class="name{short}">{dot}<span>{escape(name)}</span></span>', None, f"row {evaluation.kind(name)}"
    )


def by_task(evaluation: Evaluation, anchors: dict[str, str]) -> str:
    """Tasks by optimizers: the ratio to the best tuned baseline, tinted where the interval excludes 1."""
    rows = []
    for task, results in evaluation.summary.per_task.items():
        head = Cell(f'<a href="#{anchors[task]}">{escape(task)}</a>', None, "row")
        rows.append([head, *(_ratio_cell(results.get(name)) for name in evaluation.names)])
    return table(["task", *(name_head(evaluation, name) for name in evaluation.names)], rows)


def name_head(evaluation: Evaluation, name: str) -> str:
    """An optimizer with its colour; heads a column."""
    i = evaluation.names.index(name)
    return f'<span class="name"><span class="dot" style="background:var(--c{i % 8})"></span>{escape(name)}</span>'


def _ratio_cell(result: Result | None) -> Cell:
    if result is None:
        return Cell("not run", None, "number interval")
    versus = result.comparison
    if versus is None:
        reference = result.kind == "baseline" and result.mean_train_loss.n > 0
        return Cell("reference", 1.0, "number interval") if reference else Cell(MISSING, None, "number")
    if versus.ratio.mean is None:
        return Cell("failed" if versus.verdict == "worse" else "baseline failed", math.inf, "number")
    cell = number(versus.ratio.mean, 3)
    if versus.verdict == "undecided":
        return cell
    strength = min(1.0, abs(math.log2(versus.ratio.mean)) / 1.6)
    content = f'<span style="--strength:{strength:.2f}" class="{versus.verdict} tint">{cell.content}</span>'
    return cell._replace(content=content)


def numbers(evaluation: Evaluation, task: str) -> str:
    """Every figure of a task, one row per optimizer in order of the final training loss, failures last.

    The final validation loss is that of the trial best by it, as it is compared.
    """
    results = evaluation.summary.per_task[task]
    loss = {name: r.final_train_loss.mean for name, r in results.items()}
    rows = []
    for name in sorted(results, key=lambda name: (results[name].diverged, loss[name] is None, loss[name] or 0.0)):
        r = results[name]
        at = r.budgets.get(evaluation.budget)
        speedup = None if at is None or BEST not in at.speedup else at.speedup[BEST]
        target = None if at is None else at.target
        rows.append(
            [
                name_cell(evaluation, name),
                number(r.trials),
                Cell(settings(r), r.learning_rate, "number"),
                plus_minus(r.mean_train_loss),
                plus_minus(r.final_train_loss),
                plus_minus(r.final_valid_loss if at is None else at.final_valid_loss),
                number(speedup.value, 2, " ×") if speedup else Cell(MISSING, None, "number"),
                number(target.steps) if target else Cell(MISSING, None, "number"),
                interval(r.comparison.ratio) if r.comparison else Cell(MISSING, None, "number"),
                words(r.comparison.verdict if r.comparison else "reference" if r.kind == "baseline" else MISSING),
                Cell(f"{r.diverged} of {r.seeds}", r.diverged, "number"),
            ]
        )
    heads = ["optimizer", "trials", "best trial", "mean training loss", "final training", "final validation"]
    heads += ["speed-up", "steps to target", "ratio to the best baseline", "verdict"]
    return table([*heads, "diverged seeds"], rows)


def settings(result: Result) -> str:
    """`0.003 (lowest), cosine, 0.1`: rate, schedule and weight decay of the best trial, as far as there are."""
    if result.learning_rate is None:
        return MISSING
    edge = f" ({result.rate_at_edge})" if result.rate_at_edge else ""
    decay = [] if result.weight_decay is None else [f"{result.weight_decay:g}"]
    return escape(
        ", ".join([f"{result.learning_rate:g}{edge}", *([result.schedule] if result.schedule else []), *decay])
    )


def failures(evaluation: Evaluation, *, reported: bool) -> tuple[str, int]:
    """Diverged runs, one row per trial, and how many there are.

    Args:
      evaluation: the evaluation.
      reported: those of the trials that the figures are of, or those of the other trials.
    """
    rows, count = [], 0
    for (task, name), runs in evaluation.groups.items():
        result = evaluation.summary.per_task.get(task, {}).get(name)
        if result is None:
            continue
        lost: dict[int, list[Row]] = {}
        for row in runs:
            if row["diverged"] and (row["trial"] == result.best_trial) is reported:
                lost.setdefault(row["trial"], []).append(row)
        for trial, diverged in lost.items():
            count += len(diverged)
            rows.append(_failure(task, name, trial, diverged))
    heads = ["task", "optimizer", "trial", "learning rate", "schedule", "weight decay", "runs", "seed (step)"]
    return table(heads, rows), count


def _failure(task: str, name: str, trial: int, runs: Sequence[Row]) -> list[Cell]:
    first = runs[0]
    at = lambda row: "final evaluation" if row["diverged_at"] is None else f"{row['diverged_at']:,}"
    value = lambda key: MISSING if first.get(key) is None else f"{first[key]:g}"
    return [
        words(task, "row"),
        words(name),
        number(trial),
        Cell(value("learning_rate"), first["learning_rate"], "number"),
        words(first.get("schedule") or MISSING),
        Cell(value("weight_decay"), first.get("weight_decay"), "number"),
        number(len(runs)),
        Cell(", ".join(f"{row['seed']} ({at(row)})" for row in runs), min(row["diverged_at"] or 0 for row in runs)),
    ]


def seconds(value: float | None) -> str:
    """`12 ms`, `3.40 s`."""
    if value is None:
        return MISSING
    return f"{1000 * value:.3g} ms" if value < 1 else f"{decimals(value, 2)} s"
