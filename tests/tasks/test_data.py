import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tasks.data import Split, flatten_images, import_arrays, load, sample
from tasks.embedded import split_rows
from tasks.errors import InputError

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
