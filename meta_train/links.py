"""Who is still there: one connection from every process to process 0, on which both sides say so every few seconds.

A process that is killed closes its connection at once; one whose host is gone falls silent. Either way process 0 knows,
tells the others, and every process ends with one line instead of waiting in a collective for ever.
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
SETTLE_SECONDS = 10.0
"""A collective that fails because a process is gone may fail before that is known."""

GRACE_SECONDS = 3.0
"""Processes that refuse each other end at about the same time."""

BEAT, BYE, LOST = b"beat", b"bye", b"lost"


class Links:
    """The connections of one process: those of all others at process 0, that to process 0 elsewhere."""

    def __init__(self, peers: dict[int, socket.socket], count: int) -> None:
        self._peers, self._count = peers, count
        self._done: set[int] = set()
        self._closing = threading.Event()
        self._lock = threading.Lock()
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
    def hub(cls, port: socket.socket, count: int) -> "Links":
        """Those of process 0; returns when all others have come, or have had the time to."""
        peers: dict[int, socket.socket] = {}
        port.settimeout(CONNECT_SECONDS)
        with port:
            try:
                while len(peers) < count - 1:
                    connection, _ = port.accept()
                    connection.settimeout(CONNECT_SECONDS)
                    said = _line(connection)
                    if said.isdigit():
                        peers[int(said)] = connection
                    else:
                        connection.close()
            except OSError:
                _say(f"{count - 1 - len(peers)} of {count - 1} processes have no link to process 0: watching the rest")
        return cls(peers, count)

    @classmethod
    def spoke(cls, names: Sequence[str], port: int, index: int, count: int) -> "Links":
        """That of another process."""
        for name in names:
            try:
                connection = socket.create_connection((name, port), timeout=CONNECT_SECONDS / len(names))
                connection.sendall(f"{index}\n".encode())
                return cls({0: connection}, count)
            except OSError:
                continue
        _say(f"process {index} cannot reach port {port} of process 0: a lost process is noticed late")
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
        """This process ends with an error of its own: the others see its connection close."""
        self._closing.set()
        for connection in self._peers.values():
            connection.close()

    def settle(self, error: BaseException) -> None:
        """Where an error of the runtime may be another process's end, wait for word of it, which ends this one."""
        import jax

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
        while not self._closing.is_set():
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
            if self._closing.is_set() or index in self._done:
                return
            lost = int(said.split()[1]) if said.startswith(LOST) else index
            self._end(lost, "has been silent for a minute" if said == b"silent" else "ended early")

    def _end(self, lost: int, what: str) -> None:
        """Tell everybody, and end this process: its main thread may be in a collective that nothing interrupts.

        Unless it is about to say itself why all of them end.
        """
        if self._closing.wait(GRACE_SECONDS):
            return
        if 0 not in self._peers:
            self._send(LOST + f" {lost}".encode())
        _say(
            f"process {lost} of {self._count} {what}, so all stop: see what it said last, then repeat the command on "
            "every host to go on from the newest checkpoint"
        )
        os._exit(1)


def _line(connection: socket.socket) -> bytes:
    """The next line; empty where the connection has ended."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        line += byte
    return line.strip()


def _say(text: str) -> None:
    sys.stderr.write(f"learned-opt: {text}\n")
    sys.stderr.flush()
