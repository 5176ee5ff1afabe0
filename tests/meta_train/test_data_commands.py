import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from meta_train.data_commands import tasks_command
from tasks.data import load
from tasks.errors import DataUnavailable, InputError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("arguments", [["--help"], ["prepare", "--help"], ["import", "--help"]])
def test_help_is_printed_before_a_library_is_loaded(arguments):
    code = f"""
import sys
from meta_train.data_commands import tasks_command
try:
    status = tasks_command({arguments!r})
except SystemExit as exit_:
    status = exit_.code or 0
assert not {{"jax", "tensorflow_datasets", "grain", "sklearn"}} & set(sys.modules)
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: learned-opt tasks" in done.stdout


def test_without_an_action_the_usage_is_printed(capsys):
    assert tasks_command([]) == 2
    assert "prepare NAME" in capsys.readouterr().out


def test_an_embedded_set_is_prepared(tmp_path, capsys):
    for _ in range(2):
        assert tasks_command(["prepare", "sklearn_iris", "--data-dir", str(tmp_path)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "train: 120 x label int64 (), x float32 (4,)",
            "valid: 30 x label int64 (), x float32 (4,)",
            str(tmp_path / "sklearn_iris" / "1.0.0"),
            f"tasks.data.load('sklearn_iris', {str(tmp_path)!r})",
        ]


def test_arrays_and_texts_are_imported(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    np.savez(tmp_path / "a.npz", train_x=images, train_y=[0, 1], test_x=images, test_y=[1, 0], test_z=[1, 1])
    file = str(tmp_path / "a.npz")
    assert tasks_command(["import", file, "--name", "mine", "--fields", "x", "y"]) == 0
    out = capsys.readouterr().out
    assert "train: 2 x image uint8 (4, 4, 1), label int64 ()" in out and "tasks.data.load('mine')" in out
    assert load("mine").valid.fields["label"].tolist() == [1, 0]
    (tmp_path / "b.txt").write_text("to be or not to be")
    assert tasks_command(["import", str(tmp_path / "b.txt"), "--name", "speech"]) == 0
    assert "train: 1 x text (bytes)" in capsys.readouterr().out
    assert bytes(load("speech").valid.fields["token"].tolist()) == b"o be"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["prepar", "mnist"], InputError, r"^tasks 'prepar': expected one of prepare, import; see `learned-opt tasks"),
        (["prepare", "mnst"], InputError, "^unknown data set 'mnst'"),
        (["import", "nowhere.npz", "--name", "x"], InputError, "^nowhere.npz: no such file"),
        (["import", "a.npz", "--name", "shapes"], InputError, "^--name shapes: that is a set which comes with"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, arguments, kind, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(kind, match=message) as caught:
        tasks_command(arguments)
    assert "\n" not in str(caught.value)


def test_bad_flags_are_one_line():
    from learned_opt.errors import InputError as UsageError

    with pytest.raises(UsageError, match=r"missing --name; see `learned-opt tasks import --help`$"):
        tasks_command(["import", "a.npz"])


def test_a_set_of_tfds_without_tensorflow_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataUnavailable, match=r"^data set 'mnist' cannot be prepared without tensorflow"):
        tasks_command(["prepare", "mnist", "--data-dir", str(tmp_path)])
