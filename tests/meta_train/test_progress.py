import io

import pytest
from rich.console import Console

from meta_train import progress
from meta_train.progress import Reporter, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def follow(console: Console, clock: list[float]) -> None:
    reporter = Reporter(console)
    with reporter.running(start=0, steps=100, inner_steps=10):
        for step in range(1, 101):
            clock[0] += 1.0
            reporter.step(step, 2.0)
            if step == 50:
                reporter.saved(step)


def test_without_a_terminal_a_line_every_half_minute(clock: list[float]) -> None:
    text = io.StringIO()
    follow(Console(file=text, width=200), clock)
    lines = text.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["30/100", "60/100", "90/100", "100/100"]
    assert "meta-loss 2.0000  1.0 outer/s  10 inner/s  checkpoint none  ETA 0:01:10" in lines[0]
    assert "checkpoint 50" in lines[1]


def test_bar_on_a_terminal(clock: list[float]) -> None:
    text = io.StringIO()
    follow(Console(file=text, width=200, force_terminal=True, color_system=None), clock)
    assert "100/100" in text.getvalue() and "checkpoint 50" in text.getvalue()


def test_what_takes_long_is_announced_and_timed(clock: list[float]) -> None:
    text = io.StringIO()
    with Reporter(Console(file=text)).task("compiling"):
        assert text.getvalue() == "compiling …\n"
        clock[0] += 41
    assert text.getvalue().endswith("compiling: 41.0 s\n")


def test_duration() -> None:
    assert duration(3723.4) == "1:02:03"
