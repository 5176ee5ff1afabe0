import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tasks import data
from tasks.data import Dataset, Split, flatten_images, import_arrays, load, resize_images, sample, to_grey
from tasks.embedded import split_rows
from tasks.errors import InputError
from tasks.sources import Windows

KEY = jax.random.key(0)


def counting(count: int) -> Split:
    row = np.arange(count, dtype=np.int32)
    return Split({"row": jnp.asarray(row), "image": jnp.asarray(np.stack([row, row], 1), jnp.float32)})


def test_digits_through_tfds_equal_scikit_learn_exactly():
    digits, raw = load("sklearn_digits"), load_digits()
    rows = split_rows(1797)
    for split in ("train", "valid"):
        fields = digits.split(split).fields
        assert fields["image"].dtype == jnp.float32 and fields["label"].dtype == jnp.int32
        np.testing.assert_array_equal(fields["image"], raw.images[rows[split]][..., None] / 16)
        np.testing.assert_array_equal(fields["label"], raw.target[rows[split]])
    assert (digits.train.size, digits.valid.size, digits.classes) == (1437, 360, 10)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(digits))


def test_splits_are_disjoint_and_complete_and_frozen():
    rows = split_rows(1797)
    assert sorted([*rows["train"], *rows["valid"]]) == list(range(1797))
    assert rows["valid"][:3].tolist() == [1081, 1707, 927]  # a change would make old results incomparable
    assert {s: len(r) for s, r in split_rows(6).items()} == {"train": 4, "valid": 2}


def test_a_second_load_reads_what_the_first_prepared(data_dir):
    first = load("sklearn_digits")
    folder = data_dir / "sklearn_digits" / "1.0.0"
    stamps = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert any("array_record" in name for name in stamps)
    second = load("sklearn_digits")
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == stamps
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_preparing_and_reading_print_nothing(tmp_path, capfd):
    load("sklearn_digits", tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "sklearn_digits").is_dir() and "TFDS_DATA_DIR" in os.environ


def test_a_batch_is_rows_of_the_split_and_a_function_of_the_key():
    split = counting(1437)
    draw = jax.jit(sample, static_argnums=2)
    batch = jax.device_get(draw(split, KEY, 128))
    np.testing.assert_array_equal(np.stack([batch["row"], batch["row"]], 1), batch["image"])
    np.testing.assert_array_equal(batch["row"], draw(split, KEY, 128)["row"])
    assert np.mean(batch["row"] != np.asarray(draw(split, jax.random.key(1), 128)["row"])) > 0.9


def test_an_antithetic_pair_that_shares_a_key_shares_its_batch():
    keys = jax.random.split(KEY, 4)
    signs = jnp.asarray([1.0, -1.0])

    def rows_of_particle(sign, key):
        return sample(counting(50), key, 16)["row"]

    rows = jax.jit(jax.vmap(jax.vmap(rows_of_particle, (0, None)), (None, 0)))(signs, keys)
    np.testing.assert_array_equal(rows[:, 0], rows[:, 1])
    assert len({tuple(row.tolist()) for row in rows[:, 0]}) == 4


@pytest.mark.parametrize("count", [1, 2, 7, 1437])
def test_every_example_is_equally_likely(count):
    rows = np.asarray(sample(counting(count), KEY, 200 * count)["row"])
    counts = np.bincount(rows, minlength=count)
    assert len(counts) == count
    # Chi-squared has mean count - 1 and variance twice that; five deviations is out of reach by chance.
    excess = ((counts - 200) ** 2 / 200).sum() - (count - 1)
    assert abs(excess) <= 5 * np.sqrt(2 * (count - 1))


def test_images_are_converted_and_flattened_once(tmp_path):
    image = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3) * 8
    arrays = {"image": image, "count": np.arange(5, dtype=np.uint8), "flag": np.arange(5) > 2}
    import_arrays("small", {"train": arrays, "test": arrays}, tmp_path)
    fields = load("small", tmp_path).train.fields
    assert fields["image"].dtype == jnp.float32 and fields["flag"].dtype == jnp.bool_
    np.testing.assert_allclose(fields["image"], image / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(fields["count"], np.arange(5, dtype=np.int32))
    assert fields["count"].dtype == jnp.int32
    flat = flatten_images(load("small", tmp_path)).valid.fields["image"]
    np.testing.assert_array_equal(flat, fields["image"].reshape(5, 6))


def test_a_fifth_of_an_unsplit_set_is_held_out(tmp_path):
    import_arrays("unsplit", {"train": {"row": np.arange(10)}}, tmp_path)
    loaded = load("unsplit", tmp_path)
    train, valid = (set(s.fields["row"].tolist()) for s in (loaded.train, loaded.valid))
    assert len(valid) == 2 and train | valid == set(range(10)) and not train & valid
    assert loaded.classes is None


@pytest.mark.parametrize("splits", [("valid", "test"), ("validation", "test"), ("test", "extra")])
def test_the_sets_own_validation_split_comes_before_its_test_split(tmp_path, splits):
    arrays = {name: {"row": np.full(3, i)} for i, name in enumerate(("train", *splits))}
    import_arrays("marked", arrays, tmp_path)
    assert load("marked", tmp_path).valid.fields["row"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("count", [2, 99, 1000])
def test_a_set_without_validation_split_keeps_four_fifths_to_train_on(tmp_path, count):
    """Three sets of a published code base are trained on 1 % of their examples, by a min in place of a max."""
    import_arrays("unsplit", {"train": {"row": np.arange(count)}}, tmp_path)
    loaded = load("unsplit", tmp_path)
    assert (loaded.train.size, loaded.valid.size) == (count - -(-count // 5), -(-count // 5))
    rows = [np.asarray(s.fields["row"]) for s in (loaded.train, loaded.valid)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(count))


def test_texts_become_one_sequence_of_ascii(tmp_path):
    texts = np.array(["ab", "é\t", "c"]).astype("U2")
    encoded = np.array([text.encode() for text in texts])
    import_arrays("speech", {"train": {"text": encoded}, "test": {"text": encoded[:1]}}, tmp_path)
    speech = load("speech", tmp_path)
    assert bytes(np.asarray(speech.train.fields["token"], np.uint8)) == b"ab\n??\t\nc"
    assert speech.valid.fields["token"].tolist() == [97, 98]
    assert speech.train.fields["token"].dtype == jnp.int32 and speech.classes == 128


@pytest.mark.parametrize("name", ["text", "token"])
def test_the_end_of_an_unsplit_sequence_is_held_out(tmp_path, name):
    if name == "text":
        import_arrays("sequence", {"train": {"text": np.array([b"abcd", b"efgh"])}}, tmp_path)
        expected = list(b"abcd\nefgh")
    else:
        import_arrays("sequence", {"train": {"token": np.arange(9).reshape(3, 3)}}, tmp_path)
        expected = list(range(9))
    sequence = load("sequence", tmp_path)
    assert sequence.train.fields["token"].tolist() == expected[:7]
    assert sequence.valid.fields["token"].tolist() == expected[7:]
    assert sequence.classes == (128 if name == "text" else 9)


def test_only_the_splits_in_use_are_read(tmp_path, monkeypatch):
    arrays = {"x": np.zeros((3, 2), np.float32)}
    import_arrays("many", {name: arrays for name in ("extra", "train", "validation", "test")}, tmp_path)
    read, original = [], data.storage.read_split
    monkeypatch.setattr(data.storage, "read_split", lambda stored, split: read.append(split) or original(stored, split))
    load("many", tmp_path)
    assert read == ["train", "validation"]


def test_a_set_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    arrays = {"x": np.zeros((3, 2), np.float32)}
    import_arrays("large", {"train": arrays, "test": arrays}, tmp_path)
    monkeypatch.setattr(data, "LARGEST", 48)
    load("large", tmp_path)
    monkeypatch.setattr(data, "LARGEST", 47)
    monkeypatch.setattr(data.storage, "read_split", None)
    with pytest.raises(InputError, match=r"^data set 'large' takes 0.0 GiB .*: read it with tasks.streaming.stream$"):
        load("large", tmp_path)


def pictures(image: np.ndarray) -> Dataset:
    split = Split({"image": jnp.asarray(image, jnp.float32), "label": jnp.zeros(len(image), jnp.int32)})
    return Dataset(split, split, "pictures", 1)


def test_grey_is_the_luma_of_rec_601():
    colours = np.eye(3)[:, None, None]
    grey = to_grey(pictures(np.concatenate([colours, np.ones((1, 1, 1, 3))]))).valid.fields["image"]
    np.testing.assert_allclose(grey.ravel(), [0.299, 0.587, 0.114, 1.0], rtol=1e-6)
    assert grey.shape == (4, 1, 1, 1)
    assert to_grey(to_grey(pictures(colours))).train.fields["image"].shape == (3, 1, 1, 1)
    with pytest.raises(InputError, match=r"^data set 'pictures' has images \(2, 4, 4, 2\), expected"):
        to_grey(pictures(np.zeros((2, 4, 4, 2))))


def test_shrinking_averages_and_growing_interpolates():
    ramp = np.broadcast_to(np.arange(8.0)[None, None, :, None], (2, 8, 8, 3))
    small = resize_images(pictures(ramp), 4).train.fields["image"]
    assert small.shape == (2, 4, 4, 3)
    # A triangle of half-width 2 pixels about the centre of each pair: weights 1, 3, 3, 1 where all are inside.
    np.testing.assert_allclose(small[0, 0, :, 0], [(3 * 0 + 3 * 1 + 2) / 7, 2.5, 4.5, 7 - 5 / 7], rtol=1e-5)
    noise = np.random.default_rng(0).normal(size=(50, 32, 32, 1))
    shrunk = resize_images(pictures(noise), 8).train.fields["image"]
    assert float(jnp.std(shrunk)) < 0.3  # 0.5 without averaging, as of four pixels
    np.testing.assert_allclose(
        resize_images(pictures(ramp), 16).train.fields["image"][0, 0, 1:4, 0], [0.25, 0.75, 1.25]
    )
    for wrong, size in ((ramp, 0), (ramp[..., 0], 4)):
        with pytest.raises(InputError, match=rf"^data set 'pictures' has images .* resized to {size} pixels$"):
            resize_images(pictures(wrong), size)
    with pytest.raises(InputError, match=r"^data set 'table' has fields x, expected image$"):
        resize_images(Dataset(Split({"x": jnp.zeros((2, 3))}), Split({"x": jnp.zeros((2, 3))}), "table"), 4)


def test_data_that_do_not_fit_are_told_in_one_line(tmp_path):
    import_arrays("big", {"train": {"x": np.array([0, 2**40])}, "valid": {"x": np.array([0])}}, tmp_path)
    with pytest.raises(
        InputError, match=r"^data set 'big': field 'x' holds integers beyond 32 bits: store them as floats$"
    ):
        load("big", tmp_path)
    import_arrays("single", {"train": {"x": np.zeros(1)}}, tmp_path)
    with pytest.raises(InputError, match=r"^data set 'single': one example, expected two at least"):
        load("single", tmp_path)
    import_arrays("no_train", {"test": {"x": np.zeros(3)}}, tmp_path)
    with pytest.raises(InputError, match=r"^data set 'no_train': expected a split called train, found test$"):
        load("no_train", tmp_path)


@pytest.mark.parametrize(("tokens", "windows"), [(9, 2), (8, 1), (5, 1)])
def test_windows_that_are_held_end_inside_the_split(tokens, windows):
    split = Split({"token": jnp.arange(tokens)})
    held = Windows(Dataset(split, split, "count", tokens), 4).held("valid")
    expected = np.arange(4 * windows).reshape(windows, 4)
    np.testing.assert_array_equal(held["input"], expected)
    np.testing.assert_array_equal(held["target"], expected + 1)
