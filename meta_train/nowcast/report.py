"""What an evaluation says: a table in Markdown, and curves."""

from pathlib import Path
from typing import Any

import numpy as np

from meta_train.evaluate.speedup import smooth

COLUMNS = 3
"""Panels beside each other."""


def markdown(result: dict[str, Any]) -> str:
    """The tables of a `results.json`."""
    config, names = result["config"], list(result["contenders"])
    shares = list(next(iter(result["overall"].values())))
    lines = [
        "# Steps to the loss of tuned AdamW",
        "",
        f"{config['steps']} steps, a jump every {config['period']}, {config['seeds']} seeds, the best of "
        f"{config['trials']} trials of AdamW for every contender. Ratios of steps to those of AdamW: below 1 is "
        "faster. In brackets the 95 % interval over seeds; * marks tasks where not all seeds got there: these count as "
        "the whole budget.",
    ]
    for share in shares:
        lines += [
            "",
            f"## To AdamW's level after {float(share):.0%} of its steps",
            "",
            _row(["task", *names]),
            _row(["---"] * (len(names) + 1)),
        ]
        for task, found in result["tasks"].items():
            label = task if found["wired"] else f"{task} (no graph)"
            lines.append(_row([label, *(_ratio(found[name]["targets"][share]) for name in names)]))
        overall = [result["overall"][name][share] for name in names]
        lines.append(_row(["**geometric mean**", *(_number(x) for x in overall)]))
    lines += ["", "## Final validation loss", "", _row(["task", *names]), _row(["---"] * (len(names) + 1))]
    for task, found in result["tasks"].items():
        lines.append(_row([task, *(_number(found[name]["final_valid"]["mean"], 4) for name in names)]))
    lines += ["", "## The loss about a jump", "", "Mean over jumps and seeds: before, right after, AdamW's then.", ""]
    jumping = [name for name in names if any(found[name]["jumps"] for found in result["tasks"].values())]
    lines += [_row(["task", *jumping]), _row(["---"] * (len(jumping) + 1))] if jumping else ["No jumps."]
    for task, found in result["tasks"].items() if jumping else ():
        lines.append(_row([task, *(_about(found[name]["jumps"]) for name in jumping)]))
    return "\n".join(lines) + "\n"


def figure(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Training curves of the chosen trials, means over seeds, a panel for each task.

    Args:
      curves: task -> contender -> losses [seeds, T].
      path: of a PNG.
    """
    from matplotlib.figure import Figure

    rows = -(-len(curves) // COLUMNS)
    columns = min(len(curves), COLUMNS)
    canvas = Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    panels = canvas.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    for panel, (task, found) in zip(panels, curves.items(), strict=False):
        for name, losses in found.items():
            mean, steps = losses.mean(axis=0, dtype=np.float64), losses.shape[-1]
            if np.isfinite(mean).all():
                panel.plot(smooth(mean, np.arange(steps, dtype=np.float64), steps), label=name, linewidth=1.0)
        panel.set_title(task, fontsize=9)
        panel.set_xlabel("step")
        panel.set_ylabel("training loss, smoothed")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        canvas.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    canvas.savefig(path, dpi=110)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _ratio(target: dict[str, Any]) -> str:
    figure, star = target["ratio"], "*" if target["missed"] else ""
    between = "" if figure["low"] is None else f" ({figure['low']:.2f}–{figure['high']:.2f})"
    return f"{_number(figure['mean'])}{star}{between}"


def _about(jumps: list[dict[str, Any]]) -> str:
    if not jumps:
        return "–"
    means = []
    for field in ("before", "after", "adamw"):
        values = [jump[field] for jump in jumps if jump[field] is not None]
        means.append(_number(float(np.mean(values)) if values else None, 3))
    return " → ".join(means[:2]) + f" ({means[2]})"
