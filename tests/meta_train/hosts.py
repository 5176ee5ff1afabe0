"""Two processes of two CPU devices each, on this machine, as two hosts of a run."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import runs

ENDS = 240
"""Seconds within which a process must have ended, or a test fails: JAX's own services may swallow SIGTERM. Far more
than any needs: machines of tests may be busy."""


@contextmanager
def two(*args: list[str], prelude: tuple[str, str] = ("", "")) -> Iterator[list[subprocess.Popen[str]]]:
    """The program in two processes that know each other, which do not outlive the block.

    Args:
      args: of each, or of both.
      prelude: code that each runs before it becomes the program.
    """
    both = list(args) if len(args) == 2 else [args[0], args[0]]
    shared = ["--coordinator", f"localhost:{free_port()}", "--num-processes", "2"]
    codes = [f"{first}\nimport sys; from meta_train.cli import main; sys.exit(main())" for first in prelude]
    processes = [start(["-c", codes[i], *each, *shared, "--process-id", str(i)]) for i, each in enumerate(both)]
    try:
        yield processes
    finally:
        kill(processes)


def start(args: list[str]) -> subprocess.Popen[str]:
    """Python with these arguments and two devices."""
    environment = os.environ | {
        "PYTHONPATH": str(runs.ROOT),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
    }
    return subprocess.Popen(
        [sys.executable, *args], env=environment, cwd=runs.ROOT.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit status, standard output and standard error of each."""
    try:
        said = [process.communicate(timeout=ENDS) for process in processes]
    finally:
        kill(processes)
    codes = [process.returncode for process in processes]
    return [(code, out, errors) for code, (out, errors) in zip(codes, said, strict=True)]


def kill(processes: list[subprocess.Popen[str]]) -> None:
    """Those that still run."""
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()
