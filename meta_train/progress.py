"""What a person sees of a run: a bar on a terminal, a line every half minute in a log file."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 30.0
"""Between two lines where there is no terminal."""
BAR_SECONDS = 0.2
"""Between two updates of the bar: an outer step may take a hundredth of a second, and drawing costs as much."""


class _Console(Console):
    """A console whose reader may leave: training goes on in silence."""

    def on_broken_pipe(self) -> None:
        """Called by Rich, whose own version ends the program."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Reporter:
    """Progress of one run on standard error."""

    def __init__(self, console: Console | None = None, *, silent: bool = False) -> None:
        """Report to a console, standard error by default, or to nobody."""
        self._console = console or _Console(stderr=True, highlight=False, quiet=silent)
        self._bar: Progress | None = None
        self._meta_loss: float | None = None
        self._saved: int | None = None

    def note(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def task(self, text: str) -> Iterator[None]:
        """Announce something that takes a while, and how long it took."""
        self.note(f"{text} …")
        start = time.monotonic()
        yield
        self.note(f"{text}: {time.monotonic() - start:.1f} s")

    @contextmanager
    def running(self, *, start: int, steps: int, inner_steps: int) -> Iterator[None]:
        """Follow outer steps `start` to `steps`, each of `inner_steps` inner steps."""
        self._start, self._steps, self._inner_steps = start, steps, inner_steps
        self._began = self._shown = time.monotonic()
        self._saved = start or None
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("outer step"), MofNCompleteColumn(), BarColumn(bar_width=None), TextColumn("{task.description}"),
            TextColumn("ETA"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._console, refresh_per_second=4, expand=True) as self._bar:
            self._task = self._bar.add_task("", total=steps, completed=start)
            yield
        self._bar = None

    def step(self, step: int, meta_loss: float) -> None:
        """Outer step `step` is done; call it after each."""
        # About the last hundred steps count.
        self._meta_loss = meta_loss if self._meta_loss is None else 0.98 * self._meta_loss + 0.02 * meta_loss
        now = time.monotonic()
        if now - self._shown < (LINE_SECONDS if self._bar is None else BAR_SECONDS) and step != self._steps:
            return
        self._shown = now
        rate = (step - self._start) / max(now - self._began, 1e-9)
        text = (
            f"meta-loss {self._meta_loss:.4f}  {rate:.1f} outer/s  {rate * self._inner_steps:,.0f} inner/s  "
            f"checkpoint {'none' if self._saved is None else self._saved}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            self.note(f"outer step {step}/{self._steps}  {text}  ETA {duration((self._steps - step) / rate)}")

    def saved(self, step: int) -> None:
        """A checkpoint of outer step `step` is being written."""
        self._saved = step


def duration(seconds: float) -> str:
    """A time as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
