"""The published experiments: every stated figure is met (slow), and the command says so (fast)."""

import json
from pathlib import Path
from typing import Any

import pytest

from learned_opt.errors import InputError
from meta_train import studies
from meta_train.errors import RunFailed
from meta_train.estimators_command import estimators_command
from meta_train.studies import NAMES, Check, Result


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_study_meets_its_figures(name: str, tmp_path: Path) -> None:
    (result,) = studies.run([name], tmp_path)
    assert [check for check in result.checks if not check.holds] == []
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(written["checks"]) == len(result.checks) > 0
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def found(holds: bool) -> Result:
    return Result("influence", (Check("loss", 0.5, holds, "below 1"),), {"curve": [1.0, 0.5]})


@pytest.mark.parametrize("holds", [True, False])
def test_command_reports_each_figure(
    holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(studies, "run", lambda names, out: asked.append((names, out)) or [found(holds)])
    command = ["--out", str(tmp_path), "--studies", "influence, lorenz"]
    if holds:
        assert estimators_command(command) == 0
    else:
        with pytest.raises(RunFailed, match="1 figures missed: influence: loss"):
            estimators_command(command)
    assert asked == [(["influence", "lorenz"], tmp_path)]
    assert ("ok" if holds else "MISSED") in capsys.readouterr().out


def test_results_are_written_as_json(tmp_path: Path) -> None:
    studies.write(found(True), tmp_path, seconds=1.5)
    written = json.loads((tmp_path / "influence.json").read_text())
    assert written["checks"] == [{"what": "loss", "value": 0.5, "holds": True, "expected": "below 1"}]
    assert written["curves"] == {"curve": [1.0, 0.5]}


def test_unknown_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="study 'loren': expected one of influence"):
        estimators_command(["--out", str(tmp_path), "--studies", "loren"])
    with pytest.raises(InputError, match="--studies is empty"):
        estimators_command(["--out", str(tmp_path), "--studies", ","])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        estimators_command(["--out", str(tmp_path / "file"), "--studies", "influence"])
