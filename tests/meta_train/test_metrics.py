import json
from pathlib import Path

import pytest

from learned_opt.errors import InputError
from meta_train.metrics import MetricLog


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_lines_beyond_the_checkpoint_and_torn_ones_are_dropped(tmp_path: Path) -> None:
    with MetricLog(tmp_path, after=0, inner_steps=10) as log:
        for step in (5, 10, 15):
            log.write(step, {"meta_loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2')
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()[:2]
    with MetricLog(tmp_path, after=12, inner_steps=10) as log:
        assert (tmp_path / "metrics.jsonl").read_text().splitlines() == kept
        log.write(15, {"meta_loss": 0.5})
    assert [(line["step"], line["meta_loss"]) for line in lines(tmp_path)] == [(5, 0.2), (10, 0.1), (15, 0.5)]


def test_a_damaged_line_in_the_middle_costs_nothing(tmp_path: Path) -> None:
    """Cutting there would throw away every later line."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 5, "seconds": 1.0}\n\xff garbage\n{"step": 15, "seconds": 3.0}\n')
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"line 2 is no line of metrics.*checkpoints are intact"):
        MetricLog(tmp_path, after=15, inner_steps=1)
    assert path.read_bytes() == before


def test_time_of_earlier_starts_counts(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "seconds": 100.0}\n')
    with MetricLog(tmp_path, after=5, inner_steps=1) as log:
        assert log.seconds == pytest.approx(100.0, abs=5)


def test_what_is_not_finite_stays_json(tmp_path: Path) -> None:
    with MetricLog(tmp_path, after=0, inner_steps=1) as log:
        log.write(1, {"gradient_norm": float("nan"), "theta_norm": float("inf"), "meta_loss": 2})
    (line,) = lines(tmp_path)
    assert (line["gradient_norm"], line["theta_norm"], line["meta_loss"]) == (None, None, 2.0)
