"""Figures as inline SVG: colours that follow the page, text in its font, names that are unique in it.

Matplotlib draws with stand-in colours, which become CSS variables of the page; so one figure serves light and dark
screens and paper. A line of optimizer i has the gid `optimizer-i`, which becomes a class, and can be hidden by a rule.
"""

import contextlib
import html
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

PALETTE = 8
"""Colours of optimizers; further ones start again."""

_INK, _MUTED, _GRID, _PAPER = "#f1e0d1", "#f1e0d2", "#f1e0d3", "#f1e0d4"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid", _PAPER: "--paper"} | {
    f"#f1e0c{i}": f"--c{i}" for i in range(PALETTE)
}
INK, MUTED, GRID, PAPER = _INK, _MUTED, _GRID, _PAPER
"""Stand-ins for the colours of text, secondary text, rules and background."""

_MARKERS = "osD^vPX*"


def colour(index: int) -> str:
    """Stand-in for the colour of an optimizer."""
    return f"#f1e0c{index % PALETTE}"


def marker(index: int) -> str:
    """Marker of an optimizer: a second sign beside its colour."""
    return _MARKERS[index % len(_MARKERS)]


def group(index: int) -> str:
    """gid of everything drawn for an optimizer."""
    return f"optimizer-{index}"


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Settings under which figures are made and turned into text."""
    settings: Any = {
        "svg.fonttype": "none",
        "font.size": 10.0,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.facecolor": "none",
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.which": "major",
        "axes.axisbelow": True,
        "axes.titlesize": 10.0,
        "axes.labelsize": 10.0,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 3.0,
        "ytick.major.size": 0.0,
        "xtick.major.width": 0.7,
        "lines.solid_capstyle": "butt",
        "path.simplify": True,
    }
    with matplotlib.rc_context(settings):
        yield


def panel(width: float, height: float, left: float, bottom: float, top: float = 8.0, right: float = 14.0) -> Axes:
    """Axes in a figure of their own; all lengths in CSS pixels at the figure's natural size."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    size = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    return figure.add_axes(size)


def crosses(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    """A cross at the upper edge for each (index of an optimizer, x); those at one x stand below each other."""
    height = axes.get_window_extent().height
    for k, (i, x) in enumerate(points):
        above = sum(other == x for _, other in points[:k])
        axes.plot(
            [x],
            [1.0 - 9.0 * above / height],
            transform=axes.get_xaxis_transform(),
            marker="x",
            markersize=6.0,
            color=colour(i),
            clip_on=False,
            gid=group(i),
            zorder=4,
        )


def log_ticks(axes: Axes, which: str) -> None:
    """A few ticks at round numbers, written plainly."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    within = lambda digits: [
        d * 10.0**e for e in range(-30, 31) for d in digits if low * 0.999 <= d * 10.0**e <= high * 1.001
    ]
    ticks = next((t for t in map(within, ((1,), (1, 3), (1, 2, 5))) if len(t) >= 3), None)
    if ticks is None:
        even = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = [float(t) for t in even if low <= t <= high and t > 0]
    axis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 7) or 1]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def plain(value: float) -> str:
    """`0.05`, `20`, `1e-5`."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def render(axes: Axes, prefix: str, label: str) -> str:
    """The figure of some axes as an `<svg>` element.

    Args:
      axes: from `panel`.
      prefix: put before every id; unique in the page.
      label: what is seen, for screen readers.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r"(?:href=\"|url\()#([\w.-]+)", text))
    text = re.sub(r" id=\"([^\"]+)\"", lambda m: _identity(m[1], used, prefix), text)
    text = re.sub(r"(href=\"|url\()#([\w.-]+)", rf"\1#{prefix}-\2", text)
    text = re.sub(r"<[^>]*>", lambda tag: _tidy(tag[0]), text)
    text = re.sub(r">\s+<", "><", text).replace("<g/>", "")
    width, height = figure.get_size_inches() * 72
    head = (
        f'<svg class="figure" role="img" aria-label="{html.escape(label)}" '
        f'viewBox="0 0 {width:g} {height:g}" style="max-width:{1.35 * width:g}px">'
    )
    return head + text[text.index(">") + 1 :].strip()


def _identity(name: str, used: set[str], prefix: str) -> str:
    if name.startswith("optimizer-"):
        return f' class="{name}"'
    return f' id="{prefix}-{name}"' if name in used else ""


def _tidy(tag: str) -> str:
    """Colours by name, coordinates to a tenth of a pixel, the font of the page."""
    tag = re.sub(r"\s+", " ", tag)
    tag = re.sub(r" d=\"([^\"]*)\"", lambda d: f' d="{_path(d[1])}"', tag)
    tag = re.sub(r" transform=\"rotate\(-?0 [^\"]*\"", "", tag)
    tag = re.sub(r" (?:x|y|transform)=\"[^\"]*\"", lambda value: _rounded(value[0], 2), tag)
    tag = re.sub(r"#f1e0[cd]\d", lambda m: f"var({_VARIABLES[m[0]]})", tag)
    tag = re.sub(r"(?<=[\"; ])font-family: [^;\"]*;? ?", "", tag)
    return re.sub(r"font: (?:[\w ]*?)([\d.]+)px [^;\"]*", r"font-size: \1px", tag)


def _path(d: str) -> str:
    """Fewer decimals for long paths; the letter of a line to is not repeated."""
    tokens = re.findall(r"[A-Za-z]|-?[\d.]+", _rounded(d, 1 if len(d) > 300 else 2))
    letters = [""] + [t if t.isalpha() else "" for t in tokens]
    last = list(itertools.accumulate(letters, lambda before, t: t or before))
    return " ".join(t for t, before in zip(tokens, last, strict=False) if t != "L" or before != "L")


def _rounded(text: str, decimals: int) -> str:
    return re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.{decimals}f}".rstrip("0").rstrip("."), text)
