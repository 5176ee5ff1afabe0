import dataclasses
import json
from pathlib import Path

import pytest

from learned_opt.errors import InputError
from meta_train.presets import PRESETS
from meta_train.run_directory import check_tasks, claim, read_config, record_start

CONFIG = PRESETS["debug"].config
TASKS = {"0 digits": "00000000"}


def test_new_run_is_recorded_and_claimed_again(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    for step in (0, 10):
        with claim(run, CONFIG):
            record_start(run, CONFIG, step=step, devices=["cpu"], tasks=TASKS)
    assert read_config(run) == CONFIG
    starts = json.loads((run / "config.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 10]
    assert {"python", "jax", "optax"} <= set(starts[0]["versions"])


def test_other_configuration_is_refused_with_its_differences(tmp_path: Path) -> None:
    with claim(tmp_path, CONFIG):
        record_start(tmp_path, CONFIG, step=0, devices=[], tasks=TASKS)
    other = dataclasses.replace(CONFIG, steps=CONFIG.steps + 1)
    with pytest.raises(InputError, match=r"steps is 30 there, 31 here.*choose another --out"), claim(tmp_path, other):
        pass


def test_other_tasks_are_refused_by_name(tmp_path: Path) -> None:
    check_tasks(tmp_path / "new", TASKS)
    with claim(tmp_path, CONFIG):
        check_tasks(tmp_path, TASKS)  # nothing recorded yet
        record_start(tmp_path, CONFIG, step=0, devices=[], tasks=TASKS)
    check_tasks(tmp_path, TASKS)
    words = r"other tasks: 0 digits is of shapes 00000001, expected of shapes 00000000\. Restore .*choose another --out"
    with pytest.raises(InputError, match=words):
        check_tasks(tmp_path, {"0 digits": "00000001"})
    with pytest.raises(InputError, match=r"1 more is of shapes 0, expected not there"):
        check_tasks(tmp_path, TASKS | {"1 more": "0"})


def test_a_start_that_failed_leaves_the_directory_usable(tmp_path: Path) -> None:
    """Killed after the directory was claimed and before anything was recorded: any configuration may begin in it."""
    with claim(tmp_path, CONFIG):
        (tmp_path / "checkpoints").mkdir()
    other = dataclasses.replace(CONFIG, steps=CONFIG.steps + 1)
    with claim(tmp_path, other):
        record_start(tmp_path, other, step=0, devices=[], tasks=TASKS)
    assert read_config(tmp_path) == other


def test_second_writer_is_refused(tmp_path: Path) -> None:
    with claim(tmp_path, CONFIG):
        with pytest.raises(InputError, match="is being written by another process"), claim(tmp_path, CONFIG):
            pass
        record_start(tmp_path, CONFIG, step=0, devices=[], tasks=TASKS)
    with claim(tmp_path, CONFIG):
        pass


def test_foreign_directory_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis.tex but no config.json"), claim(tmp_path, CONFIG):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file"), claim(tmp_path / "run", CONFIG):
        pass


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": {"steps": 3}, "starts": []}'])
def test_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError), claim(tmp_path, CONFIG):
        pass
    assert (tmp_path / "config.json").read_text() == text
