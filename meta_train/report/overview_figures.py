"""Figures over all tasks: ratios with intervals, performance profile, sensitivity to the rate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from meta_train.evaluate.summary import Line
from meta_train.report import svg
from meta_train.report.task_figures import Sensitivity

WIDTH, HEIGHT = 480.0, 270.0
FOREST_WIDTH, ROW_HEIGHT = 450.0, 17.0
LABEL = 30
"""Characters of a task's name at most."""


class Estimate(NamedTuple):
    """A row of a forest plot."""

    task: str
    mean: float | None
    """None: nothing finished, or nothing to compare with."""
    low: float | None
    high: float | None
    decided: bool
    """Drawn filled."""
    note: str = "no figure"
    """Said where there is no figure."""


def forest(estimates: Sequence[Estimate], index: int, label: str, *, ascending: bool) -> Axes:
    """One row per task, best first: the figure, its interval, and the number in print.

    Args:
      estimates: at least one.
      index: of the optimizer, for its colour.
      label: of the axis.
      ascending: whether low is good.
    """
    sign = 1.0 if ascending else -1.0
    rows = sorted(estimates, key=lambda e: math.inf if e.mean is None else sign * e.mean)
    names = [e.task if len(e.task) <= LABEL else f"{e.task[: LABEL - 10]}…{e.task[-9:]}" for e in rows]
    left, right = 14.0 + 5.6 * max(map(len, names)), 108.0
    axes = svg.panel(FOREST_WIDTH, ROW_HEIGHT * len(rows) + 42.0, left, 36.0, 6.0, right)
    axes.set_xscale("log")
    ends = [v for e in rows for v in (e.low, e.mean, e.high) if v is not None and v > 0]
    low, high = min([0.8, *ends]), max([1.25, *ends])
    low, high = max(low, 1e-3), min(high, 1e3)
    axes.set_xlim(low / 1.06, high * 1.06)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.axvline(1.0, color=svg.INK, linewidth=0.9)
    beside = axes.get_yaxis_transform()
    for y, e in enumerate(rows):
        if e.mean is None:
            axes.text(1.03, y, e.note, transform=beside, va="center", color=svg.MUTED, fontsize=9)
            continue
        if e.low is not None and e.high is not None:
            axes.plot([max(e.low, low), min(e.high, high)], [y, y], color=svg.colour(index), linewidth=1.6)
        axes.plot(
            [min(max(e.mean, low), high)],
            [y],
            marker="o",
            markersize=5.5,
            markeredgewidth=1.4,
            color=svg.colour(index),
            markerfacecolor=svg.colour(index) if e.decided else svg.PAPER,
            zorder=3,
        )
        ends_text = "" if e.low is None or e.high is None else f" [{short(e.low)}, {short(e.high)}]"
        axes.text(1.03, y, f"{short(e.mean)}{ends_text}", transform=beside, va="center", color=svg.INK, fontsize=9)
    axes.set_yticks(range(len(rows)), names)
    for text in axes.get_yticklabels():
        text.set_color(svg.INK)
    svg.log_ticks(axes, "x")
    axes.set_xlabel(label)
    return axes


def short(value: float) -> str:
    """Three digits, as narrow as they go."""
    return f"{value:.2f}" if 0.095 < value < 10 else f"{value:.2g}" if value < 0.1 else f"{value:.0f}"


def profile(tau: Sequence[float], lines: Mapping[int, Line]) -> Axes:
    """Share of the tasks on which an optimizer is within a factor of the best.

    Args:
      tau: the factors.
      lines: index of an optimizer -> shares with their band.
    """
    rises = [k for line in lines.values() for k in range(1, len(tau)) if line.share[k] > line.share[k - 1]]
    end = min(len(tau), max([len(tau) // 8, *rises]) + 2)
    axes = svg.panel(350.0, 250.0, 40.0, 34.0)
    axes.set_xscale("log")
    for i, line in reversed(list(lines.items())):
        band: Any = {"step": "post", "color": svg.colour(i), "alpha": 0.10, "linewidth": 0, "gid": svg.group(i)}
        if line.low != line.high:
            axes.fill_between(tau[:end], line.low[:end], line.high[:end], **band)
        axes.plot(
            tau[:end],
            line.share[:end],
            drawstyle="steps-post",
            color=svg.colour(i),
            linewidth=1.6,
            marker=svg.marker(i),
            markersize=4.5,
            markeredgewidth=0,
            markevery=(2 * i % end, max(1, end // 4)),
            gid=svg.group(i),
            clip_on=False,
        )
    axes.set_xlim(tau[0], tau[end - 1] if end > 1 else 2 * tau[0])
    axes.set_ylim(0.0, 1.0)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    svg.log_ticks(axes, "x")
    axes.set_xlabel("within a factor of the best")
    return axes


def sensitivity(
    sweeps: Mapping[int, Sequence[Sensitivity]], references: Mapping[int, Sequence[float]], fixed: Mapping[int, float]
) -> Axes | None:
    """Median over tasks of the loss at each rate over the loss of the best baseline; bands are quartiles.

    Args:
      sweeps: index of an optimizer with rates -> its sweep on each task.
      references: the same indices -> loss of the best baseline of each task.
      fixed: index of an optimizer without rates -> its median ratio; a horizontal line.
    """
    series = {}
    for i, tasks in sweeps.items():
        rate = tasks[0].rate
        same = [(s, r) for s, r in zip(tasks, references[i], strict=True) if np.array_equal(s.rate, rate)]
        ratio = np.array([np.where(np.isfinite(s.loss) & (s.lost == 0), s.loss / r, np.inf) for s, r in same])
        quartiles = np.quantile(ratio, [0.25, 0.5, 0.75], axis=0, method="lower")  # never between a number and infinity
        series[i] = (rate, *np.where(np.isfinite(quartiles), quartiles, np.nan))
    finite = [x for _, _, m, _ in series.values() for x in m[np.isfinite(m)]]
    if not finite:
        return None
    axes = svg.panel(WIDTH, HEIGHT, 44.0, 36.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low = min([*finite, *fixed.values(), 1.0]) / 1.1
    high = max([min(max(finite), 20.0), *fixed.values(), 1.0]) * 1.1
    axes.set_ylim(low, high)
    for i, (rate, q1, middle, q3) in reversed(series.items()):
        top = np.where(np.isnan(q3) & ~np.isnan(middle), high, q3)
        axes.fill_between(rate, q1, top, color=svg.colour(i), alpha=0.12, linewidth=0, gid=svg.group(i))
        style: Any = {"color": svg.colour(i), "gid": svg.group(i), "marker": svg.marker(i)}
        axes.plot(rate, middle, linewidth=1.6, markersize=5.0, markeredgewidth=0, **style)
    svg.crosses(axes, [(i, float(x)) for i, (rate, _, m, _) in series.items() for x in rate[np.isnan(m)]])
    for i, ratio in fixed.items():
        axes.axhline(ratio, color=svg.colour(i), linewidth=2.2, gid=svg.group(i), zorder=3)
    every = np.concatenate([rate for rate, *_ in series.values()])
    axes.set_xlim(every.min() / 1.3, every.max() * 1.3)
    svg.log_ticks(axes, "x")
    svg.log_ticks(axes, "y")
    axes.set_xlabel("learning rate")
    return axes
