"""Two real processes of two devices each: they agree, stop together, notice a loss, and refuse to differ."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import hosts
import jax
import numpy as np
import pytest
import runs

from learned_opt import load_pretrained
from learned_opt.errors import InputError
from meta_train import cli, distributed, trainer
from meta_train.config import MetaTrainConfig
from meta_train.distributed import DistributedConfig
from meta_train.presets import PRESETS

pytestmark = pytest.mark.quick_compilation

STEPS = 200


def command(out: Path, *more: str) -> list[str]:
    """Four pairs, with gradients well above the rounding of losses, and small steps."""
    return [
        *runs.command(out, steps=STEPS, every=10), "--estimator.pairs", "4", "--rule.settings", "step_mult", "0.1",
        "--meta-optimizer.warmup-steps", "100", *more,
    ]  # fmt: skip


def test_stop_together_lose_one_and_go_on_elsewhere(
    compile_cache: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, alone = tmp_path / "run", tmp_path / "alone"
    # SIGTERM of the second process: both stop at one step, with a checkpoint, and the first says so.
    processes = hosts.start_two(command(out))
    runs.wait_for_step(processes[0], out, 20)
    processes[1].send_signal(signal.SIGTERM)
    first, second = hosts.end(processes)
    assert (first[0], second[0]) == (143, 143), (first, second)
    (line,) = first[1].splitlines()
    step = int(line.split("outer step ")[1].split()[0])
    assert f"stopped by SIGTERM at outer step {step} of {STEPS}" in line and second[1] == ""
    assert 20 <= step < STEPS and (out / "checkpoints" / str(step)).is_dir()

    # SIGKILL of the second: the first, which waits for it in a collective, ends within a minute, with one line.
    processes = hosts.start_two(command(out))
    runs.wait_for_step(processes[0], out, step + 20)
    processes[1].kill()
    killed = time.monotonic()
    first, second = hosts.end(processes)
    assert time.monotonic() - killed < 60
    assert (first[0], second[0]) == (1, -signal.SIGKILL)
    assert [line for line in first[2].splitlines() if line.startswith("learned-opt:")] == [
        "learned-opt: process 1 of 2 ended early, so all stop: see what it said last, then repeat the command on "
        "every host to go on from the newest checkpoint"
    ]
    assert "Traceback" not in first[2] and "Check failure" not in first[2]

    # The rest of it in this process, whose eight devices the pairs do not need; the particles come along.
    assert cli.main(command(out)) == 0
    errors = capsys.readouterr().err
    assert "4 pairs on 4 of 8 devices" in errors and "resuming" in errors
    trainer.meta_train(configuration(), alone)
    got, want = (load_pretrained(each).theta for each in (out, alone))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    lines, wanted = runs.metrics(out), runs.metrics(alone)
    assert [line["step"] for line in lines] == [line["step"] for line in wanted] == [*range(3, STEPS, 3), STEPS]
    np.testing.assert_allclose([x["meta_loss"] for x in lines], [x["meta_loss"] for x in wanted], rtol=1e-5)


def configuration() -> MetaTrainConfig:
    """That of `command`."""
    debug = PRESETS["debug"].config
    return replace(
        debug,
        steps=STEPS,
        checkpoint_every=10,
        estimator=replace(debug.estimator, pairs=4),
        rule=replace(debug.rule, settings={"step_mult": 0.1}),
        meta_optimizer=replace(debug.meta_optimizer, warmup_steps=100),
    )


def test_processes_say_who_is_gone() -> None:
    """Three processes; one is killed: the two others end, through the first, and name it."""

    def python(code: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", f"import time; from meta_train.links import Links; {code}"],
            cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def first_line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    hub = python("p = Links.listen(); print(p.getsockname()[1], flush=True); Links.hub(p, 3); time.sleep(90)")
    port = first_line(hub)
    spoke = "Links.spoke(['nowhere.invalid', 'localhost'], {}, {}, 3); print('here', flush=True); time.sleep(90)"
    spokes = [python(spoke.format(port, index)) for index in (1, 2)]
    assert [first_line(each) for each in spokes] == ["here", "here"]
    spokes[0].kill()
    ended = hosts.end([hub, *spokes])
    assert [status for status, _, _ in ended] == [1, -signal.SIGKILL, 1]
    for index in (0, 2):
        assert ended[index][2].startswith("learned-opt: process 1 of 3 ended early, so all stop")


def test_processes_that_differ_are_refused(compile_cache: None, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first, second = hosts.end(hosts.start_two(command(out), command(out, "--seed", "7")))
    for index, (status, printed, errors) in enumerate((first, second)):
        assert status == 2 and printed == "", (first, second)
        assert f"process {index} of 2: hosts differ: seed is 7 in process 1, 0 in process 0" in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"coordinator": "a:1"}, "--num-processes, --process-id missing"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "--process-id 2: expected 0 to 1"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "--coordinator host: expected host:port"),
        ({"distributed": "off", "coordinator": "a:1", "num_processes": 1, "process_id": 0}, "--distributed off"),
    ],
)
def test_half_a_description_is_refused(settings: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        DistributedConfig(**settings)


def test_one_process_needs_no_runtime() -> None:
    assert distributed.join(DistributedConfig(distributed="off")) == distributed.Process(0, 1)
    assert distributed.gather("word") == ["word"]


def test_options_reach_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["meta-train", "debug", "--out", str(tmp_path), "--coordinator", "a:1"]) == 2
    assert "--num-processes, --process-id missing" in capsys.readouterr().err
