"""Who is still there: one connection from every process to process 0, on which both sides say so every few seconds.

A process that is killed closes its connection at once; one whose host is gone falls silent. Either way process 0 knows,
tells the others, and every process ends with one line instead of waiting in a collective for ever. Process 0 ends last:
JAX's service is in it, and whoever still needs that when it goes is aborted with a stack trace.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 40.0
"""Without a beat, a process counts as gone. Compiling holds no beat back for long."""
CONNECT_SECONDS = 30.0
STRANGER_SECONDS = 5.0
"""Within which one that connects has to say who it is."""
SETTLE_SECONDS = 10.0
"""A collective that fails because a process is gone may fail before that is known."""

GRACE_SECONDS = 3.0
"""Processes that refuse each other end at about the same time."""
LAST_SECONDS = 5.0
"""That process 0 gives the others, once told, to end before it."""

BEAT, BYE, LOST, FAILED, WELCOME = b"beat", b"bye", b"lost", b"failed", b"welcome"


class Links:
    """The connections of one process: those of all others at process 0, that to process 0 elsewhere."""

    def __init__(self, peers: dict[int, socket.socket], count: int) -> None:
        self._peers, self._count = peers, count
        self._done: set[int] = set()
        self._gone: set[int] = set()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        self._over = threading.Condition()
        for index in peers:
            threading.Thread(target=self._listen_to, args=(index,), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    @staticmethod
    def listen() -> socket.socket:
        """A port of process 0's, chosen by the system."""
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        return socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6)

    @classmethod
    def hub(cls, port: socket.socket, count: int, token: str) -> "Links":
        """Those of process 0; returns when all others have come, or have had the time to."""
        peers: dict[int, socket.socket] = {}
        deadline = time.monotonic() + CONNECT_SECONDS
        with port:
            while len(peers) < count - 1 and time.monotonic() < deadline:
                port.settimeout(max(deadline - time.monotonic(), 0.01))
                with contextlib.suppress(OSError):  # whoever comes and says nothing is a stranger
                    connection, _ = port.accept()
                    connection.settimeout(STRANGER_SECONDS)
                    said = _line(connection).decode(errors="replace").split()
                    if len(said) == 2 and said[0] == token and said[1].isdigit() and 0 < int(said[1]) < count:
                        connection.sendall(WELCOME + b"\n")
                        peers[int(said[1])] = connection
                    else:
                        connection.close()
        if len(peers) < count - 1:
            say(f"{count - 1 - len(peers)} of {count - 1} processes have no link to process 0: watching the rest")
        return cls(peers, count)

    @classmethod
    def spoke(cls, names: Sequence[str], port: int, index: int, count: int, token: str) -> "Links":
        """That of another process; an address of process 0 may belong to another machine here, so it has to answer."""
        for name in names:
            with contextlib.suppress(OSError):
                connection = socket.create_connection((name, port), timeout=CONNECT_SECONDS / len(names))
                connection.sendall(f"{token} {index}\n".encode())
                if _line(connection) == WELCOME:
                    return cls({0: connection}, count)
                connection.close()
        say(f"process {index} cannot reach port {port} of process 0: a lost process is noticed late")
        return cls({}, count)

    def finish(self) -> None:
        """This process is done: wait until process 0 is, and at process 0 until all have heard of it."""
        hub = 0 not in self._peers
        if hub:
            self._send(BYE)
        with self._over:
            self._over.wait_for(lambda: self._done >= set(self._peers))
        if not hub:
            self._send(BYE)
        self._closing.set()

    def fail(self) -> None:
        """This process ends with an error of its own: the others are told, or see its connection close."""
        self._closing.set()
        if 0 not in self._peers:
            self._send(FAILED)
            self._await_ends()
        for connection in self._peers.values():
            connection.close()

    def settle(self, error: BaseException) -> None:
        """Where an error of the runtime may be another process's end, wait for word of it, which ends this one."""
        import jax

        while error.__cause__ is not None and not isinstance(error, jax.errors.JaxRuntimeError):
            error = error.__cause__
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            time.sleep(SETTLE_SECONDS)

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            self._send(BEAT)

    def _send(self, word: bytes) -> None:
        with self._lock:
            for index, connection in self._peers.items():
                if index not in self._done or word == BYE:
                    with contextlib.suppress(OSError):  # whoever listens to it knows already
                        connection.sendall(word + b"\n")

    def _listen_to(self, index: int) -> None:
        connection = self._peers[index]
        connection.settimeout(SILENCE_SECONDS)
        while True:
            try:
                said = _line(connection)
            except OSError as error:
                said = b"silent" if isinstance(error, TimeoutError) else b""
            if said == BEAT:
                continue
            if said == BYE:
                with self._over:
                    self._done.add(index)
                    self._over.notify_all()
                if 0 in self._peers:
                    return
                continue
            with self._over:
                self._gone.add(index)
                self._over.notify_all()
            if self._closing.is_set() or index in self._done:
                return
            # Told to end, or the death of process 0: JAX's runtime aborts this process in a moment.
            grace = 0.0 if said.startswith(LOST) or (index == 0 and said != FAILED) else GRACE_SECONDS
            lost = int(said.split()[1]) if said.startswith(LOST) else index
            silent = f"has been silent for {SILENCE_SECONDS:.0f} seconds"
            self._end(lost, silent if said == b"silent" else "ended early", grace)
            return

    def _end(self, lost: int, what: str, grace: float) -> None:
        """Tell everybody, and end this process: its main thread may be in a collective that nothing interrupts.

        Unless it is about to say itself why all of them end.
        """
        if self._closing.wait(grace):
            return
        with self._ending:
            if self._closing.is_set():
                return
            self._closing.set()
        say(
            f"process {lost} of {self._count} {what}, so all stop: see what it said last, then repeat the command on "
            "every host to go on from the newest checkpoint"
        )
        if 0 not in self._peers:
            self._send(LOST + f" {lost}".encode())
            self._await_ends()
        os._exit(1)

    def _await_ends(self) -> None:
        with self._over:
            self._over.wait_for(lambda: self._gone >= set(self._peers), LAST_SECONDS)


def _line(connection: socket.socket) -> bytes:
    """The next line; empty where the connection has ended."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        line += byte
    return line.strip()


def say(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"learned-opt: {text}\n")
    sys.stderr.flush()
