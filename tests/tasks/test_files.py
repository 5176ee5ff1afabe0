import io

import numpy as np
import pytest

from tasks.data import load
from tasks.errors import InputError
from tasks.files import read_file
from tasks.importing import import_arrays


def saved(path, **arrays):
    np.savez(path / "arrays.npz", **arrays)
    return path / "arrays.npz"


np.save(NPY := io.BytesIO(), np.arange(3))
IMAGE = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
LABEL = np.array([0, 1, 2, 0, 1, 2], np.int16)


@pytest.mark.parametrize("keys", ["train_x train_y test_x test_y", "train/x train/y test/x test/y"])
def test_images_and_labels_of_two_splits(tmp_path, keys):
    arrays = dict(zip(keys.split(), (IMAGE[:4], LABEL[:4], IMAGE[4:], LABEL[4:]), strict=True))
    splits = read_file(saved(tmp_path, **arrays))
    assert splits.keys() == {"train", "test"} and splits["train"].keys() == {"image", "label"}
    np.testing.assert_array_equal(splits["train"]["image"], IMAGE[:4, ..., None])
    assert splits["train"]["image"].dtype == np.uint8
    np.testing.assert_array_equal(splits["test"]["label"], LABEL[4:])
    import_arrays("mine", splits, tmp_path)
    mine = load("mine", tmp_path)
    assert mine.classes == 3
    np.testing.assert_allclose(mine.valid.fields["image"], IMAGE[4:, ..., None] / 255, rtol=1e-6)


def test_arrays_without_splits_are_all_for_training(tmp_path):
    colour = np.zeros((6, 4, 4, 3), np.float32)
    splits = read_file(saved(tmp_path, x=colour, y=LABEL > 0, other=np.array(["a"])), ("x", "y"))
    assert splits.keys() == {"train"} and splits["train"]["image"].shape == (6, 4, 4, 3)
    assert splits["train"]["label"].tolist() == [0, 1, 1, 0, 1, 1] and splits["train"]["label"].dtype == np.int64


def test_tables_are_standardised_by_the_training_split(tmp_path):
    x = np.array([[1, 7], [3, 7]], np.int16)
    arrays = {"train_x": x, "train_y": np.array([10.0, 30.0]), "val_x": x + 3, "val_y": np.array([20.0, 0.0])}
    splits = read_file(saved(tmp_path, **arrays))
    assert splits["train"]["x"].tolist() == [[-1, 0], [1, 0]] and splits["valid"]["x"].tolist() == [[2, 3], [4, 3]]
    assert splits["train"]["y"].tolist() == [-1, 1] and splits["valid"]["y"].tolist() == [0, -2]
    assert {array.dtype for fields in splits.values() for array in fields.values()} == {np.dtype(np.float32)}


def test_negative_or_several_targets_are_no_labels(tmp_path):
    assert read_file(saved(tmp_path, x=np.eye(3), y=np.array([-1, 0, 1])))["train"].keys() == {"x", "y"}
    assert read_file(saved(tmp_path, x=np.eye(3), y=np.eye(3, dtype=int)))["train"].keys() == {"x", "y"}


def test_other_names_are_kept_as_they_are(tmp_path):
    splits = read_file(saved(tmp_path, train_num=np.eye(3), train_token=np.arange(3)))
    np.testing.assert_array_equal(splits["train"]["num"], np.eye(3))
    assert splits["train"]["token"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("kind", "most"), [(int, 95), (np.int16, 95), (bool, 255)])
def test_whole_numbers_and_truth_values_become_bytes(tmp_path, kind, most):
    image = read_file(saved(tmp_path, x=IMAGE.astype(kind), y=LABEL))["train"]["image"]
    assert (image.dtype, image.max()) == (np.uint8, most)


def test_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefgh\né")
    splits = read_file(tmp_path / "a.txt")
    assert splits["train"]["text"].tolist() == [b"abcdefgh"] and splits["valid"]["text"].tolist() == [b"\n\xc3\xa9"]
    import_arrays("mine", splits, tmp_path)
    assert load("mine", tmp_path).valid.fields["token"].tolist() == [10, 63, 63]


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        ({"train_x": IMAGE, "y": LABEL}, (), "array 'y': expected train_, valid_ or test_ before each name"),
        ({"test_x": IMAGE}, (), "expected a split train, found test"),
        (
            {"train_x": IMAGE, "val_x": IMAGE, "validation_x": IMAGE},
            (),
            "arrays 'val_x' and 'validation_x' are both field 'x' of split 'valid', expected one of them: rename",
        ),
        ({"train_x": IMAGE, "val_x": IMAGE, "valid_x": IMAGE}, (), "arrays 'val_x' and 'valid_x' are both field 'x'"),
        (
            {"train_x": IMAGE, "train/x": IMAGE},
            (),
            "are both field 'x' of split 'train'",
        ),
        (
            {"train_x": IMAGE, "train_y": LABEL, "val_x": IMAGE, "validation_y": LABEL},
            (),
            "arrays of both splits valid and validation, expected one: rename those of one",
        ),
        ({"x": IMAGE, "y": LABEL}, ("x", "z"), "no field 'z', expected some of x, y"),
        (
            {"train_x": IMAGE, "train_y": LABEL, "test_x": IMAGE},
            (),
            "field 'y' is in split train and not in test, expected the same fields in all splits",
        ),
        ({"train_x": IMAGE, "test_x": IMAGE, "test_y": LABEL}, (), "field 'y' is in split test and not in train"),
        ({"x": IMAGE, "names": np.array(["a"])}, (), r"array 'names' is <U1 of shape \(1,\), .* by --fields$"),
        ({"x": np.array([[1.0, np.inf]])}, (), "field 'x' of split 'train' holds values that are not finite"),
        ({"x": np.array([None])}, (), "cannot be read as arrays: .*allow_pickle"),
        ({"x": IMAGE[:0], "y": LABEL[:0]}, (), "array 'x' is empty, expected one example at least"),
        ({"x": IMAGE.astype(int) * 5}, (), "pixels from 0 to 475, expected whole numbers of 0 to 255 or floats"),
        ({"x": IMAGE[:, None, None]}, (), r"images of shape \(6, 1, 1, 4, 4\), expected \(N, H, W\) or"),
        (
            {"x": IMAGE, "y": LABEL.astype(int) + 2**30},
            (),
            "labels up to 1073741826, expected classes from 0, fewer than 100,000",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_told_in_one_line(tmp_path, arrays, fields, message):
    path = saved(tmp_path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_file(path, fields)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"no zip", "cannot be read as arrays"),
        ("a.npz", b"", "cannot be read as arrays"),
        ("a.npz", NPY.getvalue(), "cannot be read as arrays"),
        ("a.txt", b"a", "a text of 1 bytes, expected two at least"),
        ("a.csv", b"1,2", r"expected arrays \(.npz\) or a text \(.txt\)$"),
        ("b.npz", None, r"no such file, expected arrays"),
        ("", None, "a directory, expected arrays"),
    ],
)
def test_files_that_do_not_fit_are_told_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_file(tmp_path / name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path / name))


def test_a_text_has_no_fields(tmp_path):
    (tmp_path / "a.txt").write_text("abcdef")
    with pytest.raises(InputError, match="a text has no fields"):
        read_file(tmp_path / "a.txt", ("x",))
