import json

import jax.numpy as jnp
import numpy as np
import pytest

from tasks import streaming
from tasks.data import import_arrays, load
from tasks.errors import InputError
from tasks.streaming import stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    rows = np.arange(100)
    fields = {"row": rows, "image": np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (100, 2, 2, 1))}
    import_arrays("split", {"train": {**fields, "label": rows % 3}, "test": {**fields, "label": rows % 3}}, folder)
    import_arrays("unsplit", {"train": {"row": rows}}, folder)
    lines = np.array([b"%03d" % row for row in rows])
    import_arrays("lines", {"train": {"text": lines}, "validation": {"text": lines[:5]}}, folder)
    import_arrays("tokens", {"train": {"token": np.arange(100).reshape(10, 10)}}, folder)
    return folder


def rows_of(dataset) -> list[int]:
    return dataset.train.fields["row"].tolist()


def test_buffers_hold_examples_as_load_gives_them(folder):
    dataset, whole = stream("split", 30, data_dir=folder).dataset, load("split", folder)
    rows = np.asarray(rows_of(dataset))
    assert (dataset.name, dataset.classes, len(set(rows.tolist()))) == ("split", 3, 30)
    for field, array in whole.train.fields.items():
        np.testing.assert_array_equal(dataset.train.fields[field], array[rows])
        assert dataset.train.fields[field].dtype == array.dtype
        np.testing.assert_array_equal(dataset.valid.fields[field], whole.valid.fields[field])


def test_an_epoch_holds_each_example_once_and_each_epoch_has_an_order_of_its_own(folder):
    reservoir = stream("split", 25, seed=3, data_dir=folder)
    epochs = []
    for _ in range(2):
        epochs.append([])
        for _ in range(4):
            epochs[-1] += rows_of(reservoir.dataset)
            reservoir.advance()
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100))
    assert np.mean(np.equal(epochs[0], epochs[1])) < 0.1 and np.mean(np.equal(epochs[0], np.arange(100))) < 0.1


def test_equal_seeds_give_equal_streams_and_others_other_ones(folder):
    streams = [stream("split", 40, seed=seed, data_dir=folder) for seed in (1, 1, 2)]
    first, again, other = ([rows_of(s.dataset), rows_of(s.advance()), rows_of(s.advance())] for s in streams)
    assert first == again and first[0] != other[0]


@pytest.mark.parametrize(("name", "rows"), [("split", 40), ("lines", 150)])
def test_a_stream_resumes_bit_for_bit_from_every_position(folder, name, rows):
    reservoir = stream(name, rows, seed=1, data_dir=folder)
    buffers, saved = [], []
    for _ in range(7):
        saved.append(json.dumps(reservoir.position()))
        buffers.append({field: np.asarray(array) for field, array in reservoir.dataset.train.fields.items()})
        reservoir.advance()
    for at in (0, 3, 6):
        resumed = stream(name, rows, seed=1, data_dir=folder)
        dataset = resumed.restore(json.loads(saved[at]))
        for later in range(at, 7):
            for field, array in buffers[later].items():
                np.testing.assert_array_equal(dataset.train.fields[field], array)
            assert json.dumps(resumed.position()) == saved[later] and resumed.dataset is dataset
            dataset = resumed.advance()


def test_a_position_of_another_stream_is_refused(folder):
    position = stream("split", 40, seed=1, data_dir=folder).position()
    for other, expected in (
        (stream("split", 41, seed=1, data_dir=folder), "rows is 40, expected 41"),
        (stream("split", 40, seed=2, data_dir=folder), "seed is 1, expected 2"),
        (stream("unsplit", 40, seed=1, data_dir=folder), "data is 'split', expected 'unsplit'"),
    ):
        before = rows_of(other.dataset)
        with pytest.raises(InputError, match=rf"^position of a data stream: {expected}: resume with the settings"):
            other.restore(position)
        assert rows_of(other.dataset) == before


def test_what_load_holds_out_is_never_streamed(folder):
    reservoir, whole = stream("unsplit", 50, data_dir=folder), load("unsplit", folder)
    seen = set(rows_of(reservoir.dataset)) | set(rows_of(reservoir.advance()))
    assert seen == set(rows_of(whole)) and len(seen) == 80
    assert reservoir.dataset.valid.fields["row"].tolist() == whole.valid.fields["row"].tolist()


def test_buffers_of_text_have_one_length_and_whole_lines(folder):
    reservoir = stream("lines", 170, data_dir=folder)
    seen = set()
    for _ in range(6):
        token = np.asarray(reservoir.dataset.train.fields["token"], np.uint8)
        assert token.shape == (170,) and reservoir.dataset.train.fields["token"].dtype == jnp.int32
        seen |= {int(line) for line in bytes(token).split(b"\n")[:42]}
        reservoir.advance()
    assert len(seen) > 90 and max(seen) <= 99 and reservoir.dataset.classes == 128
    assert bytes(np.asarray(reservoir.dataset.valid.fields["token"], np.uint8)) == b"000\n001\n002\n003\n004"


def test_sizes_of_buffers(folder, monkeypatch):
    assert stream("split", data_dir=folder).dataset.train.size == 100
    assert stream("lines", data_dir=folder).dataset.train.size == 400
    monkeypatch.setattr(streaming, "BUFFER", 4 * 6 * 20)  # four pixels, a label and a row an example
    assert stream("split", data_dir=folder).dataset.train.size == 20
    monkeypatch.setattr(streaming, "_HELD", 7)
    assert stream("split", data_dir=folder).dataset.valid.size == 7
    assert stream("split", 1, data_dir=folder).dataset.train.size == 1


@pytest.mark.parametrize(
    ("name", "rows", "seed", "message"),
    [
        ("split", 0, 0, "rows 0, seed 0, expected at least 1"),
        ("split", 5, -1, "seed -1, expected"),
        ("tokens", 5, 0, "holds tokens, which are not streamed"),
        ("lines", 30, 0, "30 tokens hold less than 16 texts of"),
        ("nowhere", 5, 0, "unknown data set 'nowhere'"),
    ],
)
def test_bad_input_is_one_line(folder, name, rows, seed, message):
    with pytest.raises(InputError, match=message) as caught:
        stream(name, rows, seed, folder)
    assert "\n" not in str(caught.value)
