"""Checkpoints of a run: everything that changes, saved in the background, whole or not at all."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from meta_train.errors import RunFailed

State = TypeVar("State")

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers for a full disk, a used-up quota and a limit on file sizes."""
MARGIN = 2**20
"""Bytes of a checkpoint besides the arrays."""


class Checkpoints:
    """The newest checkpoints of a run; a context manager that ends with all of them on disk."""

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        """Of a run; on several hosts all open, save and restore the same steps in the same order.

        Args:
          directory: that all hosts see.
          keep: checkpoints on disk.
        """
        self._directory = directory.resolve()
        # A run that was killed while it saved leaves a directory under a temporary name.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._saving: int | None = None
        self._valid: int | None = self._manager.latest_step()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except RunFailed:
            if error is None:
                raise
        finally:
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """Outer step of the newest checkpoint, once it is complete."""
        self.wait()
        return self._valid

    def newest(self, like: State, note: Callable[[str], None]) -> tuple[State, int] | None:
        """The state of the newest checkpoint that can be read, and its step; None if there is no checkpoint.

        One that cannot be read is renamed to "damaged-" and its step, a second one of that step to "damaged-STEP-2",
        and the one before it taken.

        Raises:
          RunFailed: none can be read; on several hosts, where they cannot all choose another, the newest cannot.
        """
        while self._valid is not None:
            step = self._valid
            try:
                return self.restore(like), step
            except RunFailed:
                if jax.process_count() > 1 or len(self._manager.all_steps()) == 1:
                    raise
                path = self._directory / str(step)
                names = (f"damaged-{step}" + (f"-{i}" if i > 1 else "") for i in count(1))
                aside = path.replace(next(free for name in names if not (free := path.with_name(name)).exists()))
                note(f"checkpoint {path} cannot be read, it is now {aside.name}; going back to {self._before(step)}")
                self._manager.reload()
                self._valid = self._manager.latest_step()
        return None

    def restore(self, like: State) -> State:
        """The state of the newest checkpoint, shaped and placed like `like`.

        Raises:
          RunFailed: there is none, or it is damaged.
        """
        step = self._valid
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_empty(like))
        items = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        try:
            with _without_late_callbacks():
                saved = self._manager.restore(step, args=items)["state"]
        except Exception as error:
            path = self._directory / str(step)
            raise RunFailed(
                f"checkpoint {path} cannot be read ({_one_line(error)}): delete it to resume from {self._before(step)}"
            ) from error
        return jax.tree.map(lambda x, new: new if x.size else x, like, saved)

    def save(self, step: int, state: Any) -> None:
        """Begin to save; `state` may be donated as soon as this returns.

        Raises:
          RunFailed: the disk is full, or the save before this one failed.
        """
        self.wait()
        self._saving = step
        try:
            self._reserve(sum(x.nbytes for x in jax.tree.leaves(state)) // jax.process_count())
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(_without_empty(state))))
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Return when the last save is on disk.

        Raises:
          RunFailed: it failed.
        """
        if self._saving is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error
        self._valid, self._saving = self._saving, None

    def _reserve(self, size: int) -> None:
        """Fail at once where a file of `size` bytes and a margin has no room, instead of halfway through many files."""
        probe = self._directory / f".room-{jax.process_index()}"
        try:
            with probe.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size + MARGIN)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
        finally:
            probe.unlink(missing_ok=True)

    def _failure(self, error: Exception) -> RunFailed:
        step, self._saving = self._saving, None
        valid = "there is none before it" if self._valid is None else f"the one of step {self._valid} is intact"
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        remedy = "free some space" if full else "mend this"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _one_line(error)
        return RunFailed(
            f"checkpoint of step {step} in {self._directory} could not be written ({reason}); {valid}; "
            f"{remedy} and repeat the command to go on"
        )

    def _before(self, step: int | None) -> str:
        older = [s for s in self._manager.all_steps() if step is not None and s < step]
        return f"step {max(older)}" if older else "the start"


def _without_empty(state: Any) -> Any:
    """`state` with None for arrays of size zero, which Orbax refuses."""
    return jax.tree.map(lambda x: x if x.size else None, state)


@contextmanager
def _without_late_callbacks() -> Iterator[None]:
    """Keep TensorStore's threads quiet that report to an event loop which the first failure has closed."""
    report = sys.unraisablehook

    def filtered(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = filtered
    try:
        yield
    except Exception:
        time.sleep(0.2)  # for the last of them
        raise
    finally:
        sys.unraisablehook = report


def _one_line(error: BaseException, limit: int = 200) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + "…"
