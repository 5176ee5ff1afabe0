"""A run that is killed, stopped or cut off from its disk ends as if nothing had happened."""

import random
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import runs

import learned_opt
from meta_train import cli
from meta_train.checkpointing import Checkpoints

pytestmark = pytest.mark.quick_compilation


def test_killed_at_a_random_moment(undisturbed: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    moment = random.Random(seed)
    out = tmp_path / "run"
    process = runs.start(runs.command(out))
    runs.wait_for_step(process, out, moment.randrange(10, runs.STEPS - 30))
    time.sleep(moment.uniform(0, 0.05))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert cli.main(runs.command(out)) == 0
    assert runs.result(out) == runs.result(undisturbed), f"random seed {seed}"


def test_terminated_then_out_of_disk(undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    process = runs.start(runs.command(out))
    runs.wait_for_step(process, out, 30)
    process.terminate()
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "Traceback" not in errors
    (line,) = printed.splitlines()
    step = learned_opt.load_pretrained(out).card["recipe"]["outer_steps"]
    assert f"stopped by SIGTERM at outer step {step} of {runs.STEPS}" in line
    assert 30 <= step < runs.STEPS - runs.EVERY
    weights = (out / "weights.safetensors").read_bytes()

    with file_size_limit(50_000):  # less than a checkpoint, more than the metrics
        assert cli.main(runs.command(out)) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "could not be written (File too large)" in message
    assert f"the one of step {step} is intact" in message
    assert (out / "weights.safetensors").read_bytes() == weights
    with Checkpoints(out / "checkpoints") as checkpoints:
        assert checkpoints.latest == step

    assert cli.main(runs.command(out)) == 0
    assert runs.result(out) == runs.result(undisturbed)


def test_killed_before_the_weights_were_written(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (out / "weights.safetensors").unlink()
    assert cli.main(runs.command(out)) == 0
    assert runs.result(out) == runs.result(undisturbed)


def test_finished_run_is_left_alone(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}

    before = stamps()
    assert cli.main(runs.command(undisturbed)) == 0
    assert "is finished" in capsys.readouterr().out
    assert stamps() == before


def test_another_configuration_is_refused(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (undisturbed / "config.json").read_bytes()
    assert cli.main([*runs.command(undisturbed), "--estimator.window", "6", "--seed", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "estimator.window is 5 there, 6 here; seed is 0 there, 1 here" in line
    assert (undisturbed / "config.json").read_bytes() == config


def test_what_a_run_leaves(undisturbed: Path) -> None:
    card = learned_opt.load_pretrained(undisturbed).card
    assert card["recipe"]["outer_steps"] == runs.STEPS
    assert card["results"]["meta_loss_after"] < card["results"]["meta_loss_before"] < 1.5 * np.log(10)
    assert [line["step"] for line in runs.metrics(undisturbed)] == list(range(3, runs.STEPS + 1, 3))
    assert list((undisturbed / "tb").iterdir())
    assert len(list((undisturbed / "checkpoints").glob("[0-9]*"))) == 3


class file_size_limit:
    """A disk that takes no file larger than `size` bytes, as a full one or a quota would."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def __enter__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._size, self._before[1]))

    def __exit__(self, *exc: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)
