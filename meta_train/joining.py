"""Until all processes of a run have met: what JAX's runtime would answer with silence or a stack trace.

Importing this module loads no JAX.
"""

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from learned_opt.errors import InputError
from meta_train.links import say

JOIN_SECONDS = 300.0
"""Within which all processes must have started; JAX's own limit, which ends in a stack trace, is a minute later."""
NOTE_SECONDS = 15.0
"""After which one that waits for the others says so."""
ADVICE = "give --coordinator, --num-processes and --process-id, or --distributed off"


def require_free_port(coordinator: str) -> None:
    """JAX's service shares a port with another of its kind, and the processes of both would wait for ever.

    Args:
      coordinator: host:port, of this machine.

    Raises:
      InputError: the port is in use.
    """
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            return  # JAX may know better
        raise InputError(
            f"--coordinator {coordinator}: port {port} cannot be had ({error.strerror}): expected a free one, and one "
            "process with --process-id 0"
        ) from error


@contextmanager
def impatience(coordinator: str | None, index: int | None, count: int | None) -> Iterator[None]:
    """Say that the others have not come yet, and end this process where they never do.

    Args:
      coordinator: host:port, where it was given; so for the others.
      index: of this process.
      count: of all.
    """
    where = "" if coordinator is None else f" at {coordinator}"
    me = "this process" if index is None else f"process {index} of {count}"
    here = threading.Event()

    def watch() -> None:
        if here.wait(NOTE_SECONDS):
            return
        say(f"{me} waits for the others{where}, up to {JOIN_SECONDS:.0f} seconds")
        if here.wait(max(JOIN_SECONDS - NOTE_SECONDS, 0.0)):
            return
        say(
            f"{me} has not met all others{where} in {JOIN_SECONDS:.0f} seconds: expected every --process-id once, the "
            f"same --coordinator and --num-processes, and a port that no firewall closes; {ADVICE}"
        )
        os._exit(1)  # its main thread is in a call that nothing interrupts

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        here.set()
