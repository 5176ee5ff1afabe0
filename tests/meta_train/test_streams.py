"""A run on data that do not fit on the device: it sees other buffers as it goes, and resumes bit for bit."""

import json

import jax
import numpy as np
import pytest
import runs

from meta_train import cli, streams
from meta_train.errors import RunFailed
from meta_train.streams import Streams, exchange
from tasks import data
from tasks.catalogue.entries import Library
from tasks.sources import Examples
from tasks.streaming import stream

STEPS, EVERY = 24, 5


@pytest.fixture
def small_device(monkeypatch):
    """A device that holds 30 kB of data, so that digits come in buffers of some hundred examples."""
    monkeypatch.setattr(data, "LARGEST", 30_000)
    monkeypatch.setattr("tasks.streaming.BUFFER", 30_000)
    monkeypatch.setattr(streams, "EVERY", 3)


def command(out, steps=STEPS):
    return runs.command(out, steps=steps, every=EVERY)


@pytest.mark.usefixtures("small_device")
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path, monkeypatch):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert cli.main(command(whole)) == 0
    save = streams.Streams.save

    def die_at_ten(self, step, keep=8):
        save(self, step, keep)
        if step == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(streams.Streams, "save", die_at_ten)
    assert cli.main(command(halves)) == 130
    assert set(json.loads((halves / "streams.json").read_text())) == {"5", "10"}
    monkeypatch.setattr(streams.Streams, "save", save)
    assert cli.main(command(halves)) == 0
    assert runs.result(halves) == runs.result(whole)

    monkeypatch.setattr(streams, "EVERY", 1000)  # the first buffer for ever
    assert cli.main(command(tmp_path / "one")) == 0
    assert runs.result(tmp_path / "one") != runs.result(whole)


@pytest.mark.usefixtures("small_device")
def test_positions_that_are_not_there_are_told(tmp_path):
    library = Library()
    library.dataset("sklearn_digits")
    with pytest.raises(RunFailed, match=r"streams.json does not say where the data streams were at outer step 7"):
        Streams(library.streams, tmp_path).restore((), 7)


def test_positions_of_a_run_that_began_again_stay(tmp_path):
    """Not those of later steps, of the run before it."""
    kept = Streams((stream("sklearn_digits", rows=100, seed=5),), tmp_path)
    for step in (*range(10, 100, 10), 5, 10):
        kept.save(step)
    assert [*json.loads((tmp_path / "streams.json").read_text())] == ["5", "10"]


def test_data_that_fit_need_no_stream(tmp_path):
    library = Library()
    problems = (Examples(library.dataset("sklearn_digits")),)
    assert library.streams == []
    none = Streams((), tmp_path)
    none.save(3)
    assert none.advance(problems, streams.EVERY) is problems and none.restore(problems, 3) is problems
    assert list(tmp_path.iterdir()) == []


def test_exchange_reaches_flattened_images_and_leaves_other_data_alone():
    digits, wine = data.load("sklearn_digits"), data.load("sklearn_wine")
    buffer = stream("sklearn_digits", rows=1437, seed=5).dataset
    tree = {"a": Examples(data.flatten_images(digits)), "b": (Examples(wine), 3.0)}
    new = exchange(tree, [buffer])
    assert new["b"][1] == 3.0
    assert jax.tree.structure(new) == jax.tree.structure(tree)
    np.testing.assert_array_equal(new["a"].data.train.fields["image"], buffer.train.fields["image"].reshape(1437, 64))
    np.testing.assert_array_equal(new["a"].data.valid.fields["image"], tree["a"].data.valid.fields["image"])
    assert new["b"][0].data.train.fields["x"] is wine.train.fields["x"]
    assert np.any(new["a"].data.train.fields["label"] != digits.train.fields["label"])
