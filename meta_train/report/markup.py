"""Pieces of HTML: tables whose numbers line up and can be sorted, figures with captions."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from meta_train.evaluate.statistics import Figure, Share

MISSING = "–"


class Cell(NamedTuple):
    """A cell of a table."""

    content: str
    """HTML."""
    sort: int | float | str | None = None
    """What the column is sorted by, if not its text; a number that is missing comes last."""
    style: str = ""
    """Classes: `number` is right-aligned, `row` heads the row."""


class Section(NamedTuple):
    """A part of the page that the table of contents leads to."""

    identity: str
    title: str
    content: str
    """HTML."""
    inner: tuple[tuple[str, str], ...] = ()
    """Further entries of the table of contents: (identity, title)."""

    def html(self) -> str:
        """With its heading."""
        return f'<section id="{self.identity}"><h2>{escape(self.title)}</h2>{self.content}</section>'


def escape(text: object) -> str:
    """Text for HTML, in attributes too."""
    return html.escape(str(text))


def decimals(value: int | float | None, places: int) -> str:
    """`0.873`, fewer decimals from 10 on; scientific where fixed decimals would say nothing."""
    if value is None or math.isnan(value):
        return MISSING
    if value != 0 and not 10.0**-places <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.{places if abs(value) < 10 else max(0, places - 2)}f}"


def words(text: object, style: str = "") -> Cell:
    """Text as it is."""
    return Cell(escape(text), None, style)


def number(value: int | float | None, places: int = 0, unit: str = "") -> Cell:
    """A right-aligned number."""
    return Cell(decimals(value, places) + (unit if value is not None else ""), value, "number")


def interval(figure: Figure | None, places: int = 3) -> Cell:
    """`0.873 [0.812, 0.940]`; an end that is open is `…`."""
    if figure is None or figure.mean is None:
        return Cell(MISSING, None, "number")
    return Cell(decimals(figure.mean, places) + _ends(figure.low, figure.high, places), figure.mean, "number")


def share(figure: Share, noun: str = "") -> Cell:
    """`20 of 30 tasks [0.47, 0.83]`."""
    if figure.share is None:
        return Cell(MISSING, None, "number")
    count = f"{figure.count} of {figure.n} {noun}".strip()
    return Cell(f"{count}{_ends(figure.low, figure.high, 2)}", figure.share, "number")


def plus_minus(figure: Figure, places: int = 4) -> Cell:
    """`0.1405 ± 0.0021`, for symmetric intervals."""
    if figure.mean is None:
        return Cell(MISSING, None, "number")
    half = (
        "" if figure.high is None else f' <span class="interval">± {decimals(figure.high - figure.mean, places)}</span>'
    )
    return Cell(decimals(figure.mean, places) + half, figure.mean, "number")


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, style: str = "") -> str:
    """A table in a box that scrolls sideways where the page is too narrow.

    Args:
      heads: of the columns, HTML.
      rows: as many cells each.
      style: further classes.
    """
    numeric = [bool(rows) and "number" in rows[0][i].style for i in range(len(heads))]
    head = "".join(
        f'<th scope="col"{_class("number" if n else "")}>{h}</th>' for h, n in zip(heads, numeric, strict=True)
    )
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table{_class(f"sortable {style}".strip())}>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(drawings: Sequence[str], caption: str, style: str = "") -> str:
    """Drawings side by side over a caption (HTML)."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure{_class(style)}><div class="drawings">{"".join(drawings)}</div>{below}</figure>'


def details(summary: str, content: str) -> str:
    """Something to unfold; works without scripts, and is unfolded on paper."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def plural(n: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else "none"


def _ends(low: float | None, high: float | None, places: int) -> str:
    if low is None and high is None:
        return ""
    low_text, high_text = ("…" if end is None else decimals(end, places) for end in (low, high))
    return f' <span class="interval">[{low_text}, {high_text}]</span>'


def _cell(cell: Cell) -> str:
    value = f"{cell.sort:.6g}" if isinstance(cell.sort, float) else cell.sort
    sort = "" if value is None else f' data-sort="{escape(value)}"'
    if "row" in cell.style.split():
        return f'<th scope="row"{_class(cell.style)}{sort}>{cell.content}</th>'
    return f"<td{_class(cell.style)}{sort}>{cell.content}</td>"


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""
