"""Two real processes of two devices each: they agree, stop together, notice a loss, and refuse to differ."""

import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import hosts
import jax
import numpy as np
import pytest
import runs
from test_mesh import ACROSS, advance, assert_close, made, start
from test_mesh import STEPS as STEPS_OF_TOYS

from learned_opt import load_pretrained
from learned_opt.errors import InputError
from meta_train import cli, distributed, joining, links, outer, run_directory
from meta_train import hosts as places
from meta_train.checkpointing import Checkpoints
from meta_train.config import MetaTrainConfig
from meta_train.distributed import DistributedConfig
from meta_train.presets import PRESETS

pytestmark = [pytest.mark.quick_compilation, pytest.mark.timeout(900)]

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
    out = tmp_path / "run"
    # SIGTERM of the second process: both stop at one step, with a checkpoint, and the first says so.
    with hosts.two(command(out)) as processes:
        runs.wait_for_step(processes[0], out, 20)
        processes[1].send_signal(signal.SIGTERM)
        first, second = hosts.end(processes)
    assert (first[0], second[0]) == (143, 143), (first, second)
    (line,) = first[1].splitlines()
    step = int(line.split("outer step ")[1].split()[0])
    assert f"stopped by SIGTERM at outer step {step} of {STEPS}" in line and second[1] == ""
    assert 20 <= step < STEPS and (out / "checkpoints" / str(step)).is_dir()

    # SIGKILL of the second: the first, which waits for it in a collective, ends within a minute, with one line.
    with hosts.two(command(out)) as processes:
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
    assert [line["step"] for line in runs.metrics(out)] == [*range(3, STEPS, 3), STEPS]
    assert load_pretrained(out).card["recipe"]["outer_steps"] == STEPS


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

    hub = python("p = Links.listen(); print(p.getsockname()[1], flush=True); Links.hub(p, 3, 'word'); time.sleep(500)")
    port = int(first_line(hub))
    with socket.create_connection(("localhost", port), timeout=100) as stranger:
        stranger.sendall(b"1\n")  # neither this one nor one that leaves takes the place of a process
        assert stranger.recv(9) == b""
        socket.create_connection(("localhost", port)).close()
        spoke = "Links.spoke(['nowhere.invalid', 'localhost'], {}, {}, 3, 'word'); print('here', flush=True)"
        spokes = [python(f"{spoke}; time.sleep(500)".format(port, index)) for index in (1, 2)]
        assert [first_line(each) for each in spokes] == ["here", "here"]
    spokes[0].kill()
    ended = hosts.end([hub, *spokes])
    assert [status for status, _, _ in ended] == [1, -signal.SIGKILL, 1]
    for index in (0, 2):
        assert ended[index][2].startswith("learned-opt: process 1 of 3 ended early, so all stop")


def test_processes_that_differ_are_refused(compile_cache: None, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with hosts.two(command(out), command(out, "--seed", "7")) as processes:
        first, second = hosts.end(processes)
    for index, (status, printed, errors) in enumerate((first, second)):
        assert status == 2 and printed == "", (first, second)
        assert f"process {index} of 2: hosts differ: seed is 7 in process 1, 0 in process 0" in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"coordinator": "a:1"}, "--num-processes, --process-id missing"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "--process-id 2: expected 0 to 1"),
        ({"coordinator": "a:1", "num_processes": 0, "process_id": 0}, "--num-processes 0: expected at least 1"),
        ({"coordinator": "a:65536", "num_processes": 2, "process_id": 0}, "--coordinator a:65536: expected host:port"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "--coordinator host: expected host:port"),
        ({"distributed": "off", "coordinator": "a:1", "num_processes": 1, "process_id": 0}, "--distributed off"),
    ],
)
def test_half_a_description_is_refused(settings: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        DistributedConfig(**settings)


def test_two_hosts_find_what_one_device_finds(compile_cache: None, tmp_path: Path) -> None:
    """20 outer steps, theta to 1e-6 relative; episodes that end within windows, phases spread, and two tasks."""
    script, port = str(Path(__file__).with_name("two_hosts.py")), str(hosts.free_port())
    processes = [hosts.start([script, port, str(index), str(tmp_path)]) for index in (0, 1)]
    ended = hosts.end(processes)
    assert [status for status, _, _ in ended] == [0, 0], ended
    for name, settings in ACROSS.items():
        alone = made(1, **settings)
        state, report = advance(alone, *start(alone), STEPS_OF_TOYS)
        with np.load(tmp_path / f"{name}.npz") as found:
            means = {each: found[each] for each in found.files if each != "theta"}
            assert_close((state._replace(theta=found["theta"]), report._replace(means=means)), (state, report))
        # The checkpoint of both, half way, goes on here.
        like, step = start(alone)
        with Checkpoints(tmp_path / f"checkpoints of {name}") as checkpoints:
            halfway = checkpoints.newest(like, print)
        assert halfway is not None and halfway[1] == STEPS_OF_TOYS // 2
        assert_close(advance(alone, halfway[0], step, STEPS_OF_TOYS - halfway[1]), (state, report))


def test_process_0_is_killed(compile_cache: None, tmp_path: Path) -> None:
    """The other ends within a minute: with a line, unless JAX's runtime, whose service is gone, aborts it before."""
    out = tmp_path / "run"
    with hosts.two(command(out)) as processes:
        runs.wait_for_step(processes[0], out, 10)
        processes[0].kill()
        killed = time.monotonic()
        first, second = hosts.end(processes)
        assert time.monotonic() - killed < 60
    assert first[0] == -signal.SIGKILL and second[0] in (1, -signal.SIGABRT)
    said = "process 0 of 2 ended early, so all stop" in second[2]
    assert said if second[0] == 1 else "JAX distributed service" in second[2]


def test_disk_of_process_0_is_full(compile_cache: None, tmp_path: Path) -> None:
    """Its error is the only one; the other, in the middle of the same checkpoint, says whom to ask."""
    out = tmp_path / "run"
    outer.build(configuration())  # data sets are prepared before there is no room for them
    with hosts.two([*command(out), "--checkpoint-every", "20"], prelude=(FULL_DISK, "")) as processes:
        ended = hosts.end(processes)
    lines = [[line for line in errors.splitlines() if line.startswith("learned-opt:")] for _, _, errors in ended]
    assert [(status, len(said)) for (status, _, _), said in zip(ended, lines, strict=True)] == [(1, 1), (1, 1)], ended
    assert "could not be written (File too large); there is none before it" in lines[0][0]
    assert "process 0 of 2 ended early, so all stop" in lines[1][0]
    assert not any("Check failure" in errors or "Traceback" in errors for _, _, errors in ended)


FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
"""Less than a checkpoint, more than the metrics."""


def test_out_that_is_not_shared_is_refused(compile_cache: None, tmp_path: Path) -> None:
    """Even if a run of the same name is there."""
    outs = [tmp_path / "a", tmp_path / "b"]
    with run_directory.claim(outs[1], configuration()):
        pass
    with hosts.two(*map(command, outs)) as processes:
        ended = hosts.end(processes)
    for index, (status, printed, errors) in enumerate(ended):
        assert status == 2 and printed == "", ended
        assert f"process {index} of 2: --out {outs[0]} of process 0 is not seen by process 1" in errors
    assert {path.name for path in outs[0].iterdir()} == {".lock", "config.json"}


def test_what_hosts_compare() -> None:
    facts = places.facts(configuration())
    assert {"seed", "version of jax", "source code", "jax_enable_x64", "jax_default_prng_impl"} <= set(facts)


def test_coordinator_port_in_use_is_refused() -> None:
    with (
        socket.create_server(("", 0)) as taken,
        pytest.raises(InputError, match=r"--coordinator localhost:\d+: port \d+ cannot be had"),
    ):
        joining.require_free_port(f"localhost:{taken.getsockname()[1]}")


def test_others_that_never_come() -> None:
    """A coordinator that does not answer: a line that says so, then an end."""
    code = (
        "from meta_train import distributed, joining; joining.NOTE_SECONDS, joining.JOIN_SECONDS = 0.5, 2.0; "
        f"distributed.join(distributed.DistributedConfig('auto', 'localhost:{hosts.free_port()}', 2, 1))"
    )
    ((status, _, errors),) = hosts.end([hosts.start(["-c", code])])
    waits, gives_up = [line for line in errors.splitlines() if line.startswith("learned-opt:")]
    assert status == 1 and "process 1 of 2 waits for the others at localhost" in waits
    assert "has not met all others" in gives_up and "--distributed off" in gives_up


def test_an_error_that_another_causes_waits_for_word_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(links.time, "sleep", slept.append)
    lost, full = jax.errors.JaxRuntimeError("Gloo failed"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")
    alone: Any = object.__new__(links.Links)
    for error, waits in ((lost, 1), (full, 0), (caused(lost), 1), (caused(OSError()), 0), (InputError("x"), 0)):
        slept.clear()
        alone.settle(error)
        assert len(slept) == waits, error


def caused(by: Exception) -> Exception:
    error = ValueError("a checkpoint")
    error.__cause__ = by
    return error


def test_one_process_needs_no_runtime() -> None:
    assert distributed.join(DistributedConfig(distributed="off")) == distributed.Process(0, 1)
    assert distributed.gather("word") == ["word"]


def test_options_reach_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["meta-train", "debug", "--out", str(tmp_path), "--coordinator", "a:1"]) == 2
    assert "--num-processes, --process-id missing" in capsys.readouterr().err
