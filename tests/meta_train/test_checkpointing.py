from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.checkpointing import Checkpoints
from meta_train.errors import RunFailed


class State(NamedTuple):
    step: jax.Array
    key: jax.Array
    theta: Any
    nothing: Any


def state(step: int) -> State:
    return State(jnp.int32(step), jax.random.key(step), {"w": jnp.full((300, 7), 0.1 * step), "b": jnp.zeros((0,))}, ())


def assert_same(a: State, b: State) -> None:
    raw = lambda tree: tree._replace(key=jax.random.key_data(tree.key))
    jax.tree.map(np.testing.assert_array_equal, raw(a), raw(b))


def test_newest_comes_back_and_three_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        for step in range(1, 6):
            checkpoints.save(step, state(step))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 5
        assert_same(checkpoints.restore(state(0)), state(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "5"]


def test_state_may_be_donated_while_it_is_saved(tmp_path: Path) -> None:
    advance = jax.jit(lambda w: w + 1, donate_argnums=0)
    w = jnp.zeros((2000, 500))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": w})
        for _ in range(20):
            w = advance(w)
    with Checkpoints(tmp_path) as checkpoints:
        assert float(jnp.max(checkpoints.restore({"w": w})["w"])) == 0.0


def test_interrupted_save_is_ignored_and_removed(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        checkpoints.save(2, state(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_damaged_checkpoint_says_what_to_delete(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
    for path in (tmp_path / "2" / "state").rglob("*"):
        if path.is_file() and "d" in path.parts:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(RunFailed) as caught:
        checkpoints.restore(state(0))
    assert f"checkpoint {tmp_path / '2'} cannot be read" in str(caught.value)
    assert "delete it to resume from step 1" in str(caught.value)


def test_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
    halve(tmp_path / "2" / "state" / "d")
    notes: list[str] = []
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.newest(state(0), notes.append)
        assert found is not None and found[1] == 1 == checkpoints.latest
        assert_same(found[0], state(1))
        checkpoints.save(2, state(2))
    assert notes == [
        f"checkpoint {tmp_path / '2'} cannot be read, it is now damaged-2; going back to step 1",
    ]
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.newest(state(0), notes.append)
        assert found is not None
        assert_same(found[0], state(2))
    halve(tmp_path / "2" / "state" / "d")  # once more
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.newest(state(0), notes.append)
        assert found is not None and found[1] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "damaged-2", "damaged-2-2"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax drops what it was reading
def test_checkpoint_cut_at_any_byte_is_whole_or_refused(tmp_path: Path) -> None:
    """Every file of it, cut at its start, its end and between: what comes back is what was saved, or nothing."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
    outcomes = set()
    for path in [path for path in (tmp_path / "1").rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        for length in {0, len(whole) // 2, len(whole) - 1} - {len(whole)}:
            path.write_bytes(whole[:length])
            with Checkpoints(tmp_path) as checkpoints:
                try:
                    assert_same(checkpoints.restore(state(0)), state(1))
                    outcomes.add("whole")
                except RunFailed:
                    outcomes.add("refused")
        path.write_bytes(whole)
    assert outcomes == {"whole", "refused"}


def halve(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_failure_in_the_background_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    checkpoints.wait()

    def fail() -> None:
        raise ValueError("Failed to write\n123 bytes")

    # Step 2 is handed over and never reaches the disk: were it really written, it could get there before the failure.
    with monkeypatch.context() as nothing_written:
        nothing_written.setattr(checkpoints._manager, "save", lambda *args, **kwargs: True)
        checkpoints.save(2, state(2))
    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
    with pytest.raises(RunFailed, match=r"of step 2 .*\(Failed to write 123 bytes\); the one of step 1 is intact"):
        checkpoints.save(3, state(3))
    monkeypatch.undo()
    checkpoints._manager.close()
