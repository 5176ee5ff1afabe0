"""The three figures of a task: training loss, validation loss, and final loss against the learning rate."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from meta_train.evaluate.summary import Result
from meta_train.report import svg
from meta_train.report.loading import Curves, Evaluation

WIDTH, HEIGHT = 350.0, 230.0
LEFT, BOTTOM = 42.0, 34.0
POINTS = 60
"""Points of a curve at most."""
HEADROOM = 1.5
"""The loss axis ends at this multiple of the largest loss at the start."""

Rows2 = Float[np.ndarray, "seeds points"]


class Band(NamedTuple):
    """Median, minimum and maximum over seeds."""

    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Fixed(NamedTuple):
    """Final loss of an optimizer without a rate, with its interval; NaN where no seed finished."""

    mean: float
    low: float
    high: float
    lost: int
    """Seeds that diverged."""


class Sensitivity(NamedTuple):
    """Loss at each rate of a sweep; NaN where no seed finished."""

    rate: np.ndarray
    loss: np.ndarray
    lost: np.ndarray
    """Seeds that diverged."""


def band(values: Rows2, keep: np.ndarray) -> Band:
    """Over the seeds kept; NaN where there is none."""
    if not keep.any():
        empty = np.full(values.shape[1], np.nan)
        return Band(empty, empty, empty)
    kept = values[keep].astype(np.float64)
    return Band(np.median(kept, axis=0), kept.min(axis=0), kept.max(axis=0))


def thin(step: np.ndarray, loss: Rows2, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal windows of a curve, the first point alone; at most `points` of them, at the windows' middle."""
    n = len(step) - 1
    width = -(-n // max(1, points - 1)) or 1
    starts = np.arange(1, n + 1, width)
    if len(starts) == 0:
        return step, loss
    lengths = np.diff(starts, append=n + 1)
    mean = lambda x: (
        np.add.reduceat(x.astype(np.float64), starts, axis=-1) / lengths.reshape((1,) * (x.ndim - 1) + (-1,))
    )
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([step[:1], mean(step)]), np.concatenate([loss[:, :1], mean(loss)], axis=1)


def training(curves: Mapping[int, Curves], learned: Sequence[int]) -> Axes | None:
    """Training loss against the step.

    Args:
      curves: index of an optimizer -> its curves.
      learned: indices of the learned optimizers, drawn stronger.
    """
    series = {}
    for i, c in curves.items():
        step, loss = thin(c.step, c.loss)
        series[i] = (step, band(loss, ~c.diverged))
    lost = [(i, at) for i, c in curves.items() for at in divergences(c)]
    return _losses(series, lost, learned, dashed=False)


def validation(curves: Mapping[int, Curves], learned: Sequence[int]) -> Axes | None:
    """Validation loss against the updates made; dashed."""
    series = {i: (c.valid_step, band(c.valid_loss, ~c.valid_diverged)) for i, c in curves.items() if len(c.valid_step)}
    return _losses(series, (), learned, dashed=True)


def divergences(curves: Curves) -> list[float]:
    """Steps at which the losses of diverged runs stop being finite; the last one where only an evaluation failed."""
    finite = np.isfinite(curves.loss[curves.diverged])
    return [float(curves.step[-1 if run.all() else np.argmin(run)]) for run in finite]


def _losses(
    series: Mapping[int, tuple[np.ndarray, Band]],
    lost: Sequence[tuple[int, float]],
    learned: Sequence[int],
    *,
    dashed: bool,
) -> Axes | None:
    """None where there is nothing to draw: no run finished, or no loss was recorded."""
    drawn = {i: (x, b) for i, (x, b) in series.items() if np.isfinite(b.middle).any()}
    if not drawn:
        return None
    axes = svg.panel(WIDTH, HEIGHT, LEFT, BOTTOM)
    loss_axis(axes, *_range([b for _, b in drawn.values()]))
    for i, (x, b) in reversed(drawn.items()):
        strong = i in learned
        if (b.high > b.low).any():
            axes.fill_between(x, b.low, b.high, color=svg.colour(i), alpha=0.16, linewidth=0, gid=svg.group(i))
        axes.plot(
            x,
            b.middle,
            color=svg.colour(i),
            linewidth=2.0 if strong else 1.2,
            linestyle=(0, (3.5, 1.8)) if dashed else "-",
            gid=svg.group(i),
            zorder=3 if strong else 2,
        )
    svg.crosses(axes, lost)
    axes.set_xlim(min(x[0] for x, _ in drawn.values()), max(x[-1] for x, _ in drawn.values()) or 1)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("step")
    return axes


def _range(bands: Sequence[Band]) -> tuple[float, float]:
    """Least and largest loss; what rises far above the start is cut off."""
    finite = np.concatenate([x[np.isfinite(x)] for b in bands for x in (b.low, b.high)])
    low, high = float(finite.min()), float(finite.max())
    starts = [b.high[0] for b in bands if math.isfinite(b.high[0])]
    return low, min(high, HEADROOM * max(starts)) if starts and max(starts) > max(low, 0.0) else high


def loss_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis where the losses allow it and it helps."""
    if low > 0 and high / low > 2.5:
        room = (high / low) ** 0.05
        axes.set_yscale("log")
        axes.set_ylim(low / room, high * room)
        svg.log_ticks(axes, "y")
    else:
        room = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
        axes.locator_params(axis="y", nbins=6)


def sensitivity(result: Result) -> Sensitivity:
    """Final training loss, mean over seeds, for each rate of the trials that are otherwise set like the first."""
    first = result.by_trial[0]
    same = lambda t: (t.schedule, t.weight_decay) == (first.schedule, first.weight_decay)
    trials = sorted((t for t in result.by_trial if same(t)), key=lambda t: t.learning_rate or 0.0)
    loss = [math.nan if t.final_train_loss.mean is None else t.final_train_loss.mean for t in trials]
    lost = [t.diverged for t in trials]
    return Sensitivity(np.array([t.learning_rate or 0.0 for t in trials]), np.array(loss), np.array(lost))


def rates_of_task(evaluation: Evaluation, task: str) -> tuple[dict[int, Sensitivity], dict[int, Fixed]]:
    """Of a task, by index of the optimizer: sweeps over rates, and final losses of those without."""
    sweeps, fixed = {}, {}
    for i, name in enumerate(evaluation.names):
        result = evaluation.result(task, name)
        if result is None:
            continue
        f = result.final_train_loss
        if result.learning_rate is not None:
            sweeps[i] = sensitivity(result)
        else:
            mean = math.nan if f.mean is None else f.mean
            low, high = (mean if end is None else end for end in (f.low, f.high))
            fixed[i] = Fixed(mean, low, high, result.diverged)
    return sweeps, fixed


def rates(sweeps: Mapping[int, Sensitivity], fixed: Mapping[int, Fixed]) -> Axes | None:
    """Final training loss against the learning rate.

    Args:
      sweeps: index of an optimizer that has rates -> its sweep.
      fixed: index of an optimizer that has none -> loss with its interval; a horizontal line, dashed where some seeds
        diverged, and a cross at its end where all did.
    """
    sweeps = {i: s for i, s in sweeps.items() if np.isfinite(s.loss).any()}
    values = [v for s in sweeps.values() for v in s.loss[np.isfinite(s.loss)]]
    if not sweeps:
        return None
    values += [f.mean for f in fixed.values() if math.isfinite(f.mean)]
    best, worst = min(values), max(values)
    axes = svg.panel(WIDTH, HEIGHT, LEFT, BOTTOM)
    axes.set_xscale("log")
    every = np.concatenate([s.rate for s in sweeps.values()])
    axes.set_xlim(every.min() / 1.4, every.max() * 1.4)
    loss_axis(axes, best, min(worst, 100 * best) if best > 0 else worst)
    for i, f in fixed.items():
        if math.isfinite(f.mean):
            line: Any = {"linewidth": 2.0, "linestyle": (0, (3.5, 1.8)) if f.lost else "-", "zorder": 3}
            axes.axhspan(f.low, f.high, color=svg.colour(i), alpha=0.16, linewidth=0, gid=svg.group(i))
            axes.axhline(f.mean, color=svg.colour(i), gid=svg.group(i), **line)
    for i, s in reversed(sweeps.items()):
        style: Any = {"color": svg.colour(i), "gid": svg.group(i), "markersize": 4.0, "marker": svg.marker(i)}
        axes.plot(s.rate, s.loss, linewidth=1.2, markeredgewidth=0, **style)
        some = (s.lost > 0) & np.isfinite(s.loss)
        axes.plot(s.rate[some], s.loss[some], linestyle="none", markerfacecolor=svg.PAPER, **style)
    lost = [(i, float(x)) for i, s in sweeps.items() for x in s.rate[~np.isfinite(s.loss)]]
    svg.crosses(axes, lost + [(i, axes.get_xlim()[1]) for i, f in fixed.items() if not math.isfinite(f.mean)])
    svg.log_ticks(axes, "x")
    axes.set_xlabel("learning rate")
    return axes
