"""Stopping a run from outside without losing work."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether somebody wants the run to stop."""

    signal: int | None = None
    """SIGTERM or SIGINT, once received."""


SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Those that ask a run to stop."""


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and the first Ctrl-C into a request to stop; the second Ctrl-C raises KeyboardInterrupt.

    Outside the main thread, where Python has no signals, the request never comes.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if request.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT:  # not print: the handler may interrupt one
            os.write(2, b"\nstopping after this outer step; Ctrl-C again aborts without saving\n")
        request.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = [signal.signal(number, handle) for number in SIGNALS]
    try:
        yield request
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
