"""Processes of one run, on one host or many: how they find each other, agree, and end together.

JAX's runtime connects them (`jax.distributed`: TPU pods, SLURM, Kubernetes and Open MPI are recognised). Its service
for preemptions swallows SIGTERM and is switched off: a request to stop travels in the message of the outer step, see
`mesh`. Where a process dies, the others would wait in a collective, to be aborted with a stack trace when heartbeats
are missed: `links` notices first.

Importing this module loads no JAX.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from learned_opt.errors import InputError
from meta_train import joining
from meta_train.links import Links

HEARTBEAT_SECONDS = 50
"""After which JAX's own service gives up a process that `links` cannot reach."""


@dataclass(frozen=True)
class DistributedConfig:
    """Processes that share one run; the same command on every host."""

    distributed: Literal["auto", "off"] = "auto"
    """auto joins the processes of a TPU pod, SLURM, Kubernetes or Open MPI; elsewhere, and with off, there is one."""
    coordinator: str | None = None
    """Address of process 0, host:port, where nothing is recognised."""
    num_processes: int | None = None
    """Processes in all."""
    process_id: int | None = None
    """Number of this one, from 0."""

    def __post_init__(self) -> None:
        """Check that the three belong together.

        Raises:
          InputError: only some of them, or numbers out of range.
        """
        given = {
            "--coordinator": self.coordinator,
            "--num-processes": self.num_processes,
            "--process-id": self.process_id,
        }
        missing = [name for name, value in given.items() if value is None]
        if missing and len(missing) < len(given):
            raise InputError(f"{', '.join(missing)} missing: expected all of {', '.join(given)}, or none")
        if self.num_processes is None or self.process_id is None or self.coordinator is None:
            return
        if self.num_processes < 1:
            raise InputError(f"--num-processes {self.num_processes}: expected at least 1")
        if not 0 <= self.process_id < self.num_processes:
            raise InputError(f"--process-id {self.process_id}: expected 0 to {self.num_processes - 1}")
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise InputError(f"--coordinator {self.coordinator}: expected host:port of process 0, such as host0:8476")
        if self.distributed == "off":
            raise InputError("--distributed off: leave out --coordinator, or expected auto")


@dataclass(frozen=True)
class Process:
    """One of the processes of a run."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that prints and writes."""
        return self.index == 0

    @property
    def name(self) -> str:
        """As messages begin."""
        return "" if self.count == 1 else f"process {self.index} of {self.count}: "


def run(config: DistributedConfig, work: Callable[[Process], int], explain: Callable[[BaseException, str], int]) -> int:
    """Join the other processes, do the work, and end with them.

    Args:
      config: who the others are.
      work: returns an exit status.
      explain: prints an error in one line that begins as told, and returns the exit status that it deserves.

    Returns:
      the exit status; where this process fails among others, they are told and it ends at once.
    """
    process = join(config)
    if process.count == 1:
        return work(process)
    _print_alone(process)
    links = None
    try:
        links = _link(process)
        status = work(process)
        links.finish()
        return status
    except BaseException as error:
        if links is not None:
            links.settle(error)  # does not return where the cause is another process
        status = explain(error, process.name)
        if links is not None:
            links.fail()
        # The runtime would wait at exit for processes that wait for this one.
        sys.stderr.flush()
        os._exit(status)


def join(config: DistributedConfig) -> Process:
    """Connect to the other processes, if there are any.

    Raises:
      InputError: they cannot be reached, or what describes them is incomplete.
    """
    if config.distributed == "off":
        return Process()
    import jax

    if config.process_id == 0:
        joining.require_free_port(str(config.coordinator))
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with joining.impatience(config.coordinator, config.process_id, config.num_processes):
            jax.distributed.initialize(
                config.coordinator,
                config.num_processes,
                config.process_id,
                initialization_timeout=round(joining.JOIN_SECONDS) + 60,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
    except ValueError as error:
        if config.coordinator is None and "coordinator_address" in str(error):
            return Process()  # nothing was recognised: one process
        raise InputError(f"processes cannot be joined ({_line(error)}): {joining.ADVICE}") from error
    except RuntimeError as error:
        if config.coordinator is None and "must be called before" in str(error):
            return Process()  # a program that has used JAX already is one process
        raise InputError(f"processes cannot be joined ({_line(error)}): {joining.ADVICE}") from error
    return Process(jax.process_index(), jax.process_count())


def _print_alone(process: Process) -> None:
    """Only what process 0 prints reaches standard output, and nothing that libraries in C++ do (Gloo's greetings)."""
    if sys.stdout is None:
        return
    sys.stdout.flush()
    if process.first:
        sys.stdout = os.fdopen(os.dup(1), "w")
    else:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  it lives as long as the process
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def gather(text: str) -> list[str]:
    """What every process says, in order; all of them have to call it."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.asarray(mine.size, np.int32)))
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: mine.size] = mine
    rows = np.reshape(multihost_utils.process_allgather(padded), (len(sizes), -1))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def require_same(facts: Mapping[str, Any]) -> None:
    """Compare what every process has with what process 0 has.

    Raises:
      InputError: in all processes, with every difference named.
    """
    said = [json.loads(text) for text in gather(json.dumps(dict(facts), default=str))]
    differences = [
        f"{name} is {theirs.get(name, 'absent')} in process {index}, {said[0].get(name, 'absent')} in process 0"
        for index, theirs in enumerate(said)
        for name in {**said[0], **theirs}
        if theirs.get(name, "absent") != said[0].get(name, "absent")
    ]
    if differences:
        raise InputError(f"hosts differ: {'; '.join(differences)}. Run the same command in the same environment on all")


@contextmanager
def together(first: Callable[[], Any]) -> Iterator[None]:
    """Enter the context that `first` makes in process 0; the others go on when it has been entered.

    Raises:
      InputError: in all processes, where it could not be.
    """
    import jax

    context, problem = None, ""
    if jax.process_index() == 0:
        context = first()
        try:
            context.__enter__()
        except InputError as error:
            problem, context = str(error), None
    try:
        problems = [each for each in gather(problem) if each]
        if problems:
            raise InputError(problems[0])
        yield
    finally:
        if context is not None:
            context.__exit__(None, None, None)


def _link(process: Process) -> Links:
    """Connect all processes to the first."""
    import secrets
    import socket

    port = Links.listen() if process.first else None
    names = [socket.gethostname(), *_addresses()] if process.first else []
    mine = {"names": names, "port": port and port.getsockname()[1], "token": secrets.token_hex(8)}
    found = json.loads(gather(json.dumps(mine))[0])
    if port is not None:
        return Links.hub(port, process.count, found["token"])
    return Links.spoke(found["names"], found["port"], process.index, process.count, found["token"])


def _addresses() -> list[str]:
    import socket

    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return ["127.0.0.1"]
    return [*dict.fromkeys(str(entry[4][0]) for entry in found), "127.0.0.1"]


def _line(error: BaseException, limit: int = 200) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[:limit] + "…"
