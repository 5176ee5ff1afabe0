"""Two processes of two CPU devices each, on this machine, as two hosts of a run."""

import os
import socket
import subprocess
import sys

import runs

ENDS = 100
"""Seconds within which a process must have ended, or a test fails: JAX's own services may swallow SIGTERM."""


def start_two(*args: list[str]) -> list[subprocess.Popen[str]]:
    """The program in two processes that know each other; `args` of each, or of both."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    both = list(args) if len(args) == 2 else [args[0], args[0]]
    shared = ["--coordinator", f"localhost:{port}", "--num-processes", "2"]
    return [start_one([*each, *shared, "--process-id", str(i)], devices=2) for i, each in enumerate(both)]


def start_one(args: list[str], *, devices: int) -> subprocess.Popen[str]:
    """The program in a process with so many devices."""
    environment = os.environ | {
        "PYTHONPATH": str(runs.ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "meta_train", *args],
        env=environment, cwd=runs.ROOT.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit status, standard output without the chatter of the collectives, and standard error of each."""
    try:
        said = [process.communicate(timeout=ENDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    quiet = lambda text: "".join(line for line in text.splitlines(keepends=True) if "[Gloo]" not in line)
    codes = [process.returncode for process in processes]
    return [(code, quiet(out), errors) for code, (out, errors) in zip(codes, said, strict=True)]
