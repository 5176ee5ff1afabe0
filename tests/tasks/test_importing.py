import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tasks import stock
from tasks.embedded import digits
from tasks.errors import DataUnavailable, InputError
from tasks.importing import import_arrays
from tasks.storage import read

ROOT = Path(__file__).parents[2]
TYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def arrays(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    fields = {}
    for kind in TYPES:
        for shape in ((), (3,), (2, 2)):
            values = rng.normal(size=(count, *shape)) * 50
            fields[f"{kind}_{len(shape)}"] = (np.abs(values) if kind[0] == "u" else values).astype(kind)
    return fields | {"label": rng.integers(0, 4, count)}


def assert_same(splits, expected):
    assert splits.keys() == expected.keys()
    for split, fields in expected.items():
        assert splits[split].keys() == fields.keys()
        for name, array in fields.items():
            assert splits[split][name].dtype == array.dtype, name
            np.testing.assert_array_equal(splits[split][name], array)


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_arrays_come_back_with_their_values_order_and_types(tmp_path, monkeypatch, file_format):
    if file_format == "parquet":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    splits = {"train": arrays(230), "valid": arrays(4, seed=1)}
    folder = import_arrays("mine", splits, tmp_path)
    assert folder == tmp_path / "mine" / "1.0.0"
    assert all(file_format in file.name for file in folder.iterdir() if not file.name.endswith(".json"))
    prepared = read("mine", tmp_path)
    assert_same(prepared.splits, splits)
    assert prepared.classes == 4


def test_parquet_cannot_cut_a_short_split_into_as_many_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^data set 'mine': in parquet each split needs 3 examples: install"):
        import_arrays("mine", {"train": {"x": np.zeros(230)}, "valid": {"x": np.zeros(2)}}, tmp_path)


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_texts_come_back(tmp_path, monkeypatch, file_format):
    if file_format == "parquet":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    splits = {"train": {"text": np.array([b"one\n", b"", b"\xff three"])}, "valid": {"text": np.array([b"a" * 100])}}
    folder = import_arrays("mine", splits, tmp_path)
    stored = read("mine", tmp_path)
    assert {s: a["text"].tolist() for s, a in stored.splits.items()} == {
        s: a["text"].tolist() for s, a in splits.items()
    }
    assert stored.classes is None and import_arrays("mine", splits, tmp_path) == folder
    with pytest.raises(InputError, match="holds other arrays"):
        import_arrays("mine", {**splits, "valid": {"text": np.array([b"a"])}}, tmp_path)


def test_importing_again_is_free_and_other_arrays_are_refused(tmp_path):
    splits = {"train": {"x": np.array([1.0, np.nan])}}
    folder = import_arrays("mine", splits, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert import_arrays("mine", splits, tmp_path) == folder
    for other in (
        {"train": {"x": np.array([1.0, 2.0])}},
        {"train": {"y": np.zeros(2)}},
        {"test": splits["train"]},
    ):
        with pytest.raises(InputError, match=r"^data set 'mine': .*1.0.0 holds other arrays: choose.*or remove it$"):
            import_arrays("mine", other, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "splits", "message"),
    [
        ("Mine", {"train": {"x": np.zeros(2)}}, "name 'Mine': expected lower case"),
        ("../x", {"train": {"x": np.zeros(2)}}, "expected lower case"),
        ("mine", {}, "one of each at least"),
        ("mine", {"train": {}}, "one of each at least"),
        ("mine", {"a/b": {"x": np.zeros(2)}}, "split 'a/b'"),
        ("mine", {"train": {"x": np.zeros(2), "y": np.zeros(3)}}, "field 'y' .*expected 2 examples"),
        ("mine", {"train": {"x": np.zeros((0, 2))}}, "expected 1 examples"),
        ("mine", {"train": {"x": np.zeros(())}}, "expected numbers"),
        ("mine", {"train": {"x": np.array(["a"])}}, "expected numbers"),
        (
            "mine",
            {"train": {"x": np.array([b"a"]), "y": np.zeros(1)}},
            "field 'x' .* or bytes alone$",
        ),
        ("mine", {"train": {"x": np.array([b"a"])}, "valid": {"x": np.zeros(1)}}, r"float64 .*expected \|S1 of shape"),
        ("mine", {"train": {"x": np.array([None])}}, "expected numbers"),
        (
            "mine",
            {"train": {"x": np.zeros(2)}, "valid": {"y": np.zeros(2)}},
            r"has fields \['y'\], expected \['x'\]",
        ),
        (
            "mine",
            {"train": {"x": np.zeros((2, 3))}, "valid": {"x": np.zeros((2, 4))}},
            r"expected float64 of shape",
        ),
        ("mine", {"train": {"x": np.zeros(2)}, "valid": {"x": np.zeros(2, int)}}, "int64 .*expected float64"),
    ],
)
def test_malformed_arrays_are_told_in_one_line_and_nothing_is_written(tmp_path, name, splits, message):
    with pytest.raises(InputError, match=message) as caught:
        import_arrays(name, splits, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


STOCK_IMAGES = {"image": np.zeros((4, 32, 32, 3), np.uint8), "label": np.arange(4)}


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        (
            "mnist",
            {"x": np.zeros((4, 3))},
            r"image \(N, 28, 28, 1\) and label below 10; .* has fields x: choose",
        ),
        (
            "mnist",
            STOCK_IMAGES,
            r"image \(N, 28, 28, 1\) .*; split 'train' has image \(4, 32, 32, 3\):",
        ),
        ("cifar10", STOCK_IMAGES | {"label": np.array([0, 1, 2, 10])}, "label below 10; .* has label from 0 to 10:"),
        ("cifar100", STOCK_IMAGES | {"label": np.zeros(4)}, "label below 100; .* has label from 0"),
        ("svhn_cropped", {"image": STOCK_IMAGES["image"]}, "split 'train' has fields image: choose another name$"),
        ("tiny_shakespeare", STOCK_IMAGES, r"expected a text \(import a .txt file\); .* has image, label: choose"),
    ],
)
def test_a_stock_name_is_for_what_the_stock_set_holds(tmp_path, name, arrays, message):
    with pytest.raises(InputError, match=rf"^data set name '{name}' stands for the stock set, .*{message}") as caught:
        import_arrays(name, {"train": arrays}, tmp_path)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_stock_names_take_what_they_are_for(tmp_path):
    import_arrays("cifar10", {"train": STOCK_IMAGES, "test": STOCK_IMAGES}, tmp_path)
    import_arrays("tiny_shakespeare", {"train": {"text": np.array([b"to be"])}}, tmp_path)
    assert {folder.name for folder in tmp_path.iterdir()} - {"downloads"} == {"cifar10", "tiny_shakespeare"}


def test_stock_sets_are_what_tfds_says_they_are():
    import tensorflow_datasets as tfds

    for name, kind in stock.STOCK.items():
        features = tfds.builder(name).info.features
        if kind is None:
            assert list(features) == ["text"]
        else:
            assert (features["image"].shape, features["label"].num_classes) == (kind[:3], kind.classes)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataUnavailable, match=r"^data set 'mine' cannot be written to .*set TFDS_DATA_DIR to .*$"):
        import_arrays("mine", {"train": {"x": np.zeros(2)}}, tmp_path / "file")
    (tmp_path / "part" / "1.0.0").mkdir(parents=True)
    with pytest.raises(DataUnavailable, match=r"^data set 'part': .*holds a part of one: remove it and try again$"):
        import_arrays("part", {"train": {"x": np.zeros(2)}}, tmp_path)


# A child imports the digits; before it writes its row 700 it calls `pause`, defined by each test.
CHILD = """
    import os, pathlib, sys, time
    import numpy as np
    from tasks.embedded import digits
    from tasks.importing import import_arrays
    here = pathlib.Path(sys.argv[1])

    class Slow(np.ndarray):
        def __getitem__(self, row):
            if isinstance(row, int) and row == 700:
                pause()
            return np.asarray(self)[row]

    splits = digits()
    splits["train"]["image"] = splits["train"]["image"].view(Slow)
    {pause}
    import_arrays("sklearn_digits", splits, here / "data")
"""


def start(tmp_path: Path, pause: str) -> subprocess.Popen:
    code = textwrap.dedent(CHILD).replace("{pause}", textwrap.dedent(pause).strip())
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_may_prepare_the_same_set_at_once(tmp_path):
    meet = """
    def pause():
        (here / str(os.getpid())).touch()
        while len([f for f in here.iterdir() if f.name.isdigit()]) < 2:
            time.sleep(0.01)
    """
    children = [start(tmp_path, meet) for _ in range(2)]
    for child in children:
        assert child.communicate(timeout=60) == ("", "")
        assert child.returncode == 0
    assert_same(read("sklearn_digits", tmp_path / "data").splits, digits())
    assert [folder.name for folder in (tmp_path / "data" / "sklearn_digits").iterdir()] == ["1.0.0"]


def test_a_process_killed_half_way_leaves_nothing_under_the_name(tmp_path):
    child = start(tmp_path, "def pause(): os.kill(os.getpid(), 9)")
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    folder = tmp_path / "data" / "sklearn_digits"
    (left,) = folder.iterdir()
    assert left.name.startswith("incomplete.")
    import_arrays("sklearn_digits", digits(), tmp_path / "data")
    assert_same(read("sklearn_digits", tmp_path / "data").splits, digits())


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path):
    old, young = (tmp_path / "mine" / f"incomplete.{name}_1.0.0" for name in ("AAAAAA", "BBBBBB"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "part").write_text("")
    os.utime(old, (0, 0))
    import_arrays("mine", {"train": {"x": np.zeros(2)}}, tmp_path)
    assert not old.exists() and young.exists()
