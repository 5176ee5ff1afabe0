"""Trajectories: what is kept of a run, and that an interruption changes nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from learned_opt.errors import InputError
from learned_opt.nowcast import wiring
from meta_train.nowcast import trajectories, wirings
from meta_train.nowcast.collect import collect
from meta_train.nowcast.config import CollectConfig
from meta_train.progress import Reporter
from tasks import suites
from tasks.errors import InputError as UnknownName

pytestmark = pytest.mark.quick_compilation
CONFIG = CollectConfig(
    family="digits-mlp", tasks=1, runs=3, steps=40, every=4, rate="sampled", low=1e-3, high=1e-2, seed=3
)
SILENT = Reporter(silent=True)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("collection") / "data"
    collect(CONFIG, out, SILENT)
    return out


def test_states_are_those_of_the_run(collection: Path) -> None:
    """To 2^-11 of the largest move of the tensor, also in slices."""
    opened = trajectories.open_collection(collection)
    assert opened.states == 11
    [task] = opened.tasks
    assert [len(task.training), len(task.held_out)] == [2, 1]
    run = opened.manifest["runs"][0]
    assert 1e-3 <= run["rate"] <= 1e-2
    whole = trajectories.load(task.training[0], 0, opened.states)
    some = trajectories.load(task.training[0], 2, 9, 3)
    assert {name: x.shape for name, x in whole.items()} == {
        "mlp/~/linear_0/w": (11, 64, 32),
        "mlp/~/linear_0/b": (11, 32),
        "mlp/~/linear_1/w": (11, 32, 10),
        "mlp/~/linear_1/b": (11, 10),
    }
    for name, x in whole.items():
        np.testing.assert_array_equal(x[2:9:3], some[name])
        assert np.abs(x[-1] - x[0]).max() > 0.0


def test_precision_does_not_depend_on_the_size_of_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    moves = np.cumsum(1e-6 * rng.normal(size=(6, 8, 8)), axis=0)
    states = {
        "a/w": np.float32(0.5 + moves),
        "still": np.ones((6, 2), np.float32),
        "empty": np.ones((6, 0), np.float32),
    }
    trajectories.save(tmp_path / "x.safetensors", states)
    loaded = trajectories.load(tmp_path / "x.safetensors", 0, 6)
    # Of the moves; beside it the spacing of float32 numbers at 0.5.
    allowed = 2**-11 * np.abs(states["a/w"] - states["a/w"][0]).max() + 2**-24
    assert np.abs(loaded["a/w"] - states["a/w"]).max() <= allowed
    np.testing.assert_array_equal(loaded["still"], states["still"])
    assert loaded["empty"].shape == (6, 0)


def test_an_interrupted_collection_goes_on(collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same files; finished runs are not made again."""
    written: list[str] = []
    save = trajectories.save

    def limited(path: Path, states: trajectories.States) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        save(path, states)

    out = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(trajectories, "save", limited)
        with pytest.raises(KeyboardInterrupt):
            collect(CONFIG, out, SILENT)
    with pytest.raises(InputError, match="has 1 of 3 runs: repeat"):
        trajectories.open_collection(out)
    first = (out / written[0]).stat().st_mtime_ns
    collect(CONFIG, out, SILENT)
    assert (out / written[0]).stat().st_mtime_ns == first
    for path in collection.glob("*.*"):
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_runs_that_are_gone_or_damaged_are_made_again(collection: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(collection, data)
    gone, cut = data / "0000-000.safetensors", data / "0000-002.safetensors"
    before = {path: path.read_bytes() for path in (gone, cut)}
    gone.unlink()
    cut.write_bytes(before[cut][:-10])
    with pytest.raises(InputError, match=r"0000-000.safetensors is missing or damaged: repeat"):
        trajectories.open_collection(data)
    collect(CONFIG, data, SILENT)
    assert {path: path.read_bytes() for path in before} == before
    assert trajectories.open_collection(data).manifest == trajectories.open_collection(collection).manifest


def test_a_family_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="'nope'"):
        collect(replace(CONFIG, family="nope"), tmp_path / "data", SILENT)
    assert not (tmp_path / "data").exists()


def test_other_settings_and_foreign_folders_are_refused(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="begun with steps 40, not 80"):
        collect(replace(CONFIG, steps=80), collection, SILENT)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"holds thesis\.tex"):
        collect(CONFIG, tmp_path, SILENT)
    with pytest.raises(InputError, match="expected a multiple of every 7"):
        replace(CONFIG, every=7)


def test_runs_that_diverge_are_named_and_not_used(tmp_path: Path) -> None:
    config = replace(CONFIG, low=1e30, high=1e30, runs=2, steps=8)
    manifest = collect(config, tmp_path / "data", SILENT)
    assert [run["diverged"] for run in manifest["runs"]] == [True, True]
    assert not list((tmp_path / "data").glob("*.safetensors"))
    with pytest.raises(InputError, match="collect at lower rates"):
        trajectories.open_collection(tmp_path / "data")


def test_the_models_of_a_family_are_wired() -> None:
    """Every kind of model that `wiring_of` knows, norms or not; the wiring survives being written down."""
    members = {family.name: family for family in suites.family("wide-plain").families}  # pyright: ignore
    names, kinds = [*4 * ["conv"], "mlp", "transformer_lm", "transformer_lm", "autoencoder", "quadratic", "vae"], set()
    for n, name in enumerate(names):
        task = members[name].sample(jax.random.fold_in(jax.random.key(0), n))
        found = wirings.wiring_of(task)
        if found is None:
            continue
        kinds.add(type(getattr(task, "model", None)).__name__)
        wiring.check(found, jax.eval_shape(task.init, jax.random.key(0)).params)
        assert wirings.from_json(json.loads(json.dumps(wirings.to_json(found)))) == found
    assert kinds == {"ImageMLP", "ImageConv", "TransformerLM", "Autoencoder"}
