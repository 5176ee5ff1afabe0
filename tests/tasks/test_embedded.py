"""Every embedded set: equal at every call, as documented, and with something to learn in it."""

import hashlib
import math
from functools import cache

import jax
import numpy as np
import pytest

from tasks.data import Dataset, load
from tasks.embedded import EMBEDDED, Splits, split_rows
from tasks.embedded import text as embedded_text
from tasks.embedded.splits import power_law_labels, split_text, standardise
from tasks.errors import DataUnavailable

SHAPES = {  # examples to train on and to validate, shape of an example, classes
    "sklearn_digits": (1437, 360, (8, 8, 1), 10),
    "sklearn_wine": (142, 36, (13,), 3),
    "sklearn_iris": (120, 30, (4,), 3),
    "sklearn_breast_cancer": (455, 114, (30,), 2),
    "sklearn_diabetes": (353, 89, (10,), None),
    "sklearn_photos": (6784, 1696, (8, 8, 3), 8),
    "sklearn_china_pixels": (3276, 820, (2,), None),
    "sklearn_flower_pixels": (3276, 820, (2,), None),
    "gratings": (4800, 1200, (8, 8, 1), 8),
    "shapes": (4800, 1200, (16, 16, 3), 6),
    "zipf_textures": (4800, 1200, (8, 8, 1), 32),
    "teacher_regression": (4000, 1000, (16,), None),
    "teacher_classification": (4000, 1000, (12,), 5),
    "friedman": (3200, 800, (10,), None),
    "zipf_clusters": (4800, 1200, (16,), 40),
    "rare_clusters": (4800, 1200, (12,), 48),
}
SEQUENCES = {  # tokens to train on and to validate, values
    "python_source": (1_600_000, 400_000, 128),
    "python_topics": (None, None, 128),
    "delayed_copy": (3200 * 32, 800 * 32, 10),
    "brackets": (2400 * 65, 600 * 65, 17),
}


@cache
def loaded(name: str) -> Dataset:
    return load(name)


@cache
def made(name: str) -> Splits:
    return EMBEDDED[name]()


def host(dataset: Dataset, split: str) -> dict[str, np.ndarray]:
    return {field: np.asarray(array) for field, array in dataset.split(split).fields.items()}


def test_the_tables_here_name_every_set():
    assert {*SHAPES, *SEQUENCES} == set(EMBEDDED)


@pytest.mark.parametrize("name", EMBEDDED)
def test_two_calls_are_equal(name):
    first, second = made(name), EMBEDDED[name]()
    assert first.keys() == {"train", "valid"} and first["train"].keys() == first["valid"].keys()
    for split, fields in first.items():
        for field, array in fields.items():
            np.testing.assert_array_equal(array, second[split][field])


@pytest.mark.parametrize("name", SHAPES)
def test_examples_have_the_documented_sizes_types_and_ranges(name):
    train_size, valid_size, shape, classes = SHAPES[name]
    dataset = loaded(name)
    assert (dataset.train.size, dataset.valid.size, dataset.classes) == (train_size, valid_size, classes)
    train, valid = host(dataset, "train"), host(dataset, "valid")
    assert train.keys() == ({"image" if len(shape) == 3 else "x"} | {"y" if classes is None else "label"})
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(dataset))
    for fields, size in ((train, train_size), (valid, valid_size)):
        for field, array in fields.items():
            assert array.dtype == (np.int32 if field == "label" else np.float32) and len(array) == size
        if len(shape) == 3:
            assert fields["image"].shape[1:] == shape
            assert 0 <= fields["image"].min() < 0.1 and 0.9 < fields["image"].max() <= 1
        else:
            assert fields["x"].shape[1:] == shape and np.isfinite(fields["x"]).all()
        if classes is not None:
            assert fields["label"].min() >= 0 and fields["label"].max() < classes
    standard = [f for f in ("x", "y") if f in train and not (f == "x" and "pixels" in name)]
    for field in standard:
        np.testing.assert_allclose(train[field].mean(axis=0, dtype=float), 0, atol=1e-6)
        np.testing.assert_allclose(train[field].std(axis=0, dtype=float), 1, atol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_no_example_is_in_both_splits(name):
    dataset = loaded(name)
    field = "image" if "image" in dataset.train.fields else "x"
    rows = [{row.tobytes() for row in host(dataset, split)[field]} for split in ("train", "valid")]
    # One iris was measured twice, and the photos have patches of plain colour, such as an overexposed sky.
    assert len(rows[0] & rows[1]) <= {"sklearn_iris": 1, "sklearn_photos": 40}.get(name, 0)


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_have_the_documented_sizes_and_values(name):
    train_size, valid_size, values = SEQUENCES[name]
    dataset = loaded(name)
    assert dataset.classes == values
    for split, size in (("train", train_size), ("valid", valid_size)):
        (token,) = host(dataset, split).values()  # on the host, where nothing compiles
        assert dataset.split(split).fields.keys() == {"token"} and token.dtype == np.int32 and token.ndim == 1
        assert size is None or token.shape == (size,)
        assert token.min() >= 0 and token.max() < values
    assert dataset.train.size / (dataset.train.size + dataset.valid.size) == pytest.approx(0.8, abs=1e-5)


# What a change of any bit would make incomparable with old results.
DIGESTS = {
    "gratings": "c7a565e0e1a1",
    "shapes": "a44ed5d7edd8",
    "zipf_textures": "facb4511878e",
    "delayed_copy": "78a8401db633",
    "brackets": "5e0444c7cafa",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_generated_integers_are_frozen(name):
    splits = made(name)
    words = [array for s in ("train", "valid") for _, array in sorted(splits[s].items())]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(w).astype("<i8").tobytes() for w in words)).hexdigest()
    assert digest.startswith(DIGESTS[name])


@pytest.mark.parametrize(
    ("name", "x", "rest"),
    [
        ("teacher_regression", [0.229697, 0.191853, 0.237783], [-1.585059, -0.002692, 0.286449]),
        ("teacher_classification", [0.364370, 0.732788, -0.630644], [3, 3, 2]),
        ("friedman", [-0.569504, 1.549633, 1.708279], [1.802105, -0.395353, 0.668034]),
        ("zipf_clusters", [-0.748692, -0.577937, -0.653549], [5, 0, 1]),
        ("rare_clusters", [-0.063670, -0.266755, 2.134752], [2, 0, 0]),
    ],
)
def test_generated_floats_are_frozen_up_to_rounding(name, x, rest):
    train = made(name)["train"]
    np.testing.assert_allclose(train["x"][0, :3], x, atol=1e-5)
    np.testing.assert_allclose(train["label" if "label" in train else "y"][:3], rest, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "exponent", "most", "least"),
    [("zipf_textures", 1.0, 1478, 46), ("zipf_clusters", 1.0, 1405, 35), ("rare_clusters", 1.3, 2077, 14)],
)
def test_heavy_tails_have_the_documented_frequencies(name, exponent, most, least):
    labels = [host(loaded(name), split)["label"] for split in ("train", "valid")]
    counts = np.bincount(np.concatenate(labels))
    assert (counts.max(), counts.min()) == (most, least)
    share = np.arange(1.0, len(counts) + 1) ** -exponent
    np.testing.assert_allclose(counts[1:], (len(labels[0]) + len(labels[1])) * (share / share.sum())[1:], atol=0.5)
    assert all(len(np.unique(part)) == len(counts) for part in labels)


@pytest.mark.parametrize("name", ["gratings", "shapes"])
def test_other_classes_are_equally_likely(name):
    counts = np.bincount(host(loaded(name), "train")["label"])
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 25  # chi-squared of 7 or 5 degrees of freedom


def random_features(x: np.ndarray) -> np.ndarray:
    """x, 256 rectified random projections of it, and a constant."""
    random = np.random.RandomState(0)
    projections = x @ random.normal(size=(x.shape[1], 256)) * (2 / math.sqrt(x.shape[1]))
    return np.concatenate([x, np.maximum(0, projections + random.uniform(-1, 1, 256)), np.ones((len(x), 1))], axis=1)


@pytest.mark.parametrize(
    ("name", "least"),
    [  # held-out accuracy, where guessing the most frequent class gets at most 0.6; or the share of variance
        ("sklearn_digits", 0.9),
        ("sklearn_wine", 0.9),
        ("sklearn_iris", 0.85),
        ("sklearn_breast_cancer", 0.9),
        ("sklearn_diabetes", 0.2),
        ("sklearn_photos", 0.5),
        ("sklearn_china_pixels", 0.8),
        ("sklearn_flower_pixels", 0.5),
        ("gratings", 0.9),
        ("shapes", 0.25),
        ("zipf_textures", 0.7),
        ("teacher_regression", 0.75),
        ("teacher_classification", 0.65),
        ("friedman", 0.75),
        ("zipf_clusters", 0.8),
        ("rare_clusters", 0.7),
    ],
)
def test_a_simple_learner_does_better_than_chance(name, least):
    train, valid = ({f: a[:3000] for f, a in host(loaded(name), s).items()} for s in ("train", "valid"))

    def inputs(fields):
        if "x" in fields:
            return random_features(fields["x"].astype(float))
        image = fields["image"].astype(float)
        if name == "shapes":  # how far the colours of a pixel are from those of the ground, in the corner
            image = np.linalg.norm(image - image[:, :1, :1], axis=3)
        return random_features(4 * (image.reshape(len(image), -1) - 0.5))

    x, label = inputs(train), train.get("label")
    y = train["y"] if label is None else np.eye(label.max() + 1)[label]
    weights = np.linalg.solve(x.T @ x + 30 * np.eye(x.shape[1]), x.T @ y)
    predicted = inputs(valid) @ weights
    if label is not None:
        assert np.mean(predicted.argmax(axis=1) == valid["label"]) > least
        assert np.mean(valid["label"] == np.bincount(label).argmax()) < least
    else:
        assert 1 - np.mean((predicted - valid["y"]) ** 2) / np.mean((valid["y"] - valid["y"].mean(axis=0)) ** 2) > least


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_token_tells_about_the_next(name):
    dataset = loaded(name)
    (token, held), values = (host(dataset, s)["token"] for s in ("train", "valid")), dataset.classes
    pairs = 0.01 + np.bincount(values * token[:-1] + token[1:], minlength=values**2).reshape(values, values)
    bigram = -np.log((pairs / pairs.sum(axis=1, keepdims=True))[held[:-1], held[1:]]).mean()
    unigram = -np.log((pairs.sum(axis=0) / pairs.sum())[held[1:]]).mean()
    assert bigram < 0.9 * unigram


def test_a_copy_repeats_its_symbols_and_its_entropy_is_the_documented_one():
    token = host(loaded("delayed_copy"), "train")["token"].reshape(-1, 32)
    np.testing.assert_array_equal(token[:, :10], token[:, 21:31])
    assert (token[:, 10:20] == 0).all() and (token[:, 20] == 1).all() and (token[:, 31] == 0).all()
    share = np.bincount(token[:, :10].ravel())[2:] / token[:, :10].size
    assert 10 / 32 * -np.sum(share * np.log(share)) == pytest.approx(0.650, abs=1e-3)


def test_brackets_are_nested_and_repeat_their_digits():
    sequences = host(loaded("brackets"), "train")["token"].reshape(-1, 65)
    deepest = 0
    for sequence in sequences[:300].tolist():
        stack = []
        assert sequence[0] == 0
        for bracket, digit in zip(sequence[1::2], sequence[2::2], strict=True):
            assert 7 <= digit <= 16
            if bracket <= 3:
                stack.append((bracket, digit))
                deepest = max(deepest, len(stack))
            else:
                assert stack.pop() == (bracket - 3, digit)
        assert stack == []
    assert deepest == 6


def test_patches_and_pixels_are_those_of_the_photos():
    from sklearn.datasets import load_sample_image

    china = load_sample_image("china.jpg").astype(float)
    patches = {patch.tobytes() for s in made("sklearn_photos").values() for patch in s["image"]}
    assert china[8:16, 632:640].astype(np.uint8).tobytes() in patches
    pixels = made("sklearn_china_pixels")
    place = np.concatenate([pixels[s]["x"] for s in ("train", "valid")])
    assert len(np.unique(place, axis=0)) == 64 * 64 and np.abs(place).max() == 63 / 64
    (row,) = np.nonzero((pixels["train"]["x"] == pixels["train"]["x"][0]).all(axis=1))
    column, line = (32 * (pixels["train"]["x"][row[0]] + 1) - 0.5).astype(int)
    block = china[21 + 6 * line : 27 + 6 * line, 128 + 6 * column : 134 + 6 * column].mean(axis=(0, 1))
    colours = china[21 : 21 + 384, 128 : 128 + 384].reshape(64, 6, 64, 6, 3).mean(axis=(1, 3)).reshape(-1, 3)
    train = colours[split_rows(4096)["train"]]
    np.testing.assert_allclose(pixels["train"]["y"][0], (block - train.mean(0)) / train.std(0), atol=1e-5)


def test_friedmans_function_is_the_published_one():
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(4000, 10, noise=0.0, random_state=8)
    fields = made("friedman")
    place = np.concatenate([fields[s]["x"] for s in ("train", "valid")])
    target = np.concatenate([fields[s]["y"] for s in ("train", "valid")])
    order = np.concatenate([split_rows(4000)[s] for s in ("train", "valid")])
    assert all(np.corrcoef(place[:, i], x[order, i])[0, 1] > 0.999999 for i in range(10))
    slope, offset = np.polyfit(y[order], target, 1)
    residual = (target - slope * y[order] - offset) / slope
    assert np.std(residual) == pytest.approx(1, abs=0.03)


def test_python_source_is_that_of_this_python(tmp_path, monkeypatch):
    train = made("python_source")["train"]["text"][0]
    assert train.count(b"\ndef ") > 300 and b"pydoc_data" not in train[:1000]
    monkeypatch.setattr(embedded_text, "_library", lambda: tmp_path)
    (tmp_path / "b.py").write_bytes(b"b")
    (tmp_path / "A.py").write_bytes(b"A" * (2_000_000 - 4))
    (tmp_path / "_sysconfigdata_x.py").write_bytes(b"never")
    (tmp_path / "c.py").write_bytes(b"cde")
    text = embedded_text.python_source()
    assert text["train"]["text"][0] == b"A" * 1_600_000 and text["valid"]["text"][0][-5:] == b"A\nb\nc"
    (tmp_path / "A.py").unlink()
    with pytest.raises(DataUnavailable, match=r"^data set 'python_source': .* holds 5 bytes of source, expected 2000"):
        embedded_text.python_source()


def test_shares_of_a_text_labels_and_standardisation():
    assert {s: f["text"].tolist() for s, f in split_text(b"abcdefg").items()} == {"train": [b"abcde"], "valid": [b"fg"]}
    assert np.bincount(power_law_labels(110, 4, 1.0)).tolist() == [53, 26, 18, 13]  # 110 (12, 6, 4, 3) / 25
    splits = {"train": {"x": np.array([[1, 5], [3, 5]])}, "valid": {"x": np.array([[4, 6]])}}
    scaled = standardise(splits, "x")
    assert scaled["train"]["x"].tolist() == [[-1, 0], [1, 0]] and scaled["valid"]["x"].tolist() == [[2, 1]]
