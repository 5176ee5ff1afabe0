import io
import shutil
import socket
import time

import numpy as np
import pytest

from tasks.data import load
from tasks.errors import DataUnavailable, InputError
from tasks.importing import import_arrays
from tasks.storage import data_directory, read


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to use the network fails, and is counted."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


@pytest.fixture(scope="module", autouse=True)
def tfds():
    """Imported before the clock starts."""
    import tensorflow_datasets

    tensorflow_datasets.list_builders(with_community_datasets=False)
    return tensorflow_datasets


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped", "lm1b"])
def test_a_set_that_is_not_prepared_and_no_network(name, tmp_path, no_network, capfd, caplog):
    start = time.perf_counter()
    with pytest.raises(DataUnavailable) as caught:
        load(name, tmp_path)
    assert time.perf_counter() - start < 1
    message = str(caught.value)
    command = f"learned-opt tasks prepare {name} "
    assert message.startswith(f"data set '{name}' is not prepared in {tmp_path}: run `{command}")
    assert f" --data-dir {tmp_path}` where there is a network" in message and "TFDS_DATA_DIR" in message
    assert "\n" not in message
    assert no_network == []
    assert capfd.readouterr() == ("", "") and caplog.records == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mnst", "mnist"),
        ("fashon_mnist", "fashion_mnist"),
        ("sklearn_digit", "sklearn_digits"),
        ("my_sett", "my_set"),
    ],
)
def test_an_unknown_name_gives_the_nearest(name, near, tmp_path, no_network, capfd):
    (tmp_path / "my_set").mkdir()
    start = time.perf_counter()
    with pytest.raises(InputError, match=rf"^unknown data set '{name}': .*; nearest names: .*\b{near}\b") as caught:
        load(name, tmp_path)
    assert time.perf_counter() - start < 1
    assert not isinstance(caught.value, DataUnavailable) and "\n" not in str(caught.value)
    assert no_network == []
    assert capfd.readouterr() == ("", "")


def test_a_name_like_no_other_gives_the_embedded_ones_in_order(tmp_path, no_network):
    with pytest.raises(InputError, match=r"^unknown data set 'nosuch': .*; embedded are: ") as caught:
        load("nosuch", tmp_path)
    names = str(caught.value).rpartition(": ")[2].split(", ")
    assert len(names) == 20 and names == sorted(names)


@pytest.mark.parametrize("name", ["", "a b", "../mnist", "mnist/3:", "mnist:9.9.9", "huggingface:mnist"])
def test_a_name_or_version_that_cannot_be(name, tmp_path, no_network):
    with pytest.raises(InputError) as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)


def test_a_stock_name_stands_for_the_users_own_copy(tmp_path, no_network):
    image = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28, 1)
    arrays = {"image": image, "label": np.array([1, 0, 9])}
    import_arrays("mnist", {"train": arrays, "test": arrays}, tmp_path)
    mnist = load("mnist", tmp_path)
    np.testing.assert_allclose(mnist.valid.fields["image"], image / 255.0, rtol=1e-6)
    assert (mnist.classes, mnist.name) == (10, "mnist")
    assert load("mnist:1.0.0", tmp_path).train.size == 3


def test_the_newest_version_is_read_unless_another_is_named(tmp_path, tfds):
    folder = import_arrays("mine", {"train": {"x": np.zeros(2)}}, tmp_path)
    newer = folder.with_name("1.10.0")
    shutil.copytree(import_arrays("other", {"train": {"x": np.ones(2)}}, tmp_path), newer)
    for file in newer.iterdir():
        file.rename(newer / file.name.replace("other", "mine"))
    info = newer / "dataset_info.json"
    info.write_text(info.read_text().replace("other", "mine").replace("1.0.0", "1.10.0"))
    assert read("mine", tmp_path).splits["train"]["x"].tolist() == [1, 1]
    assert read("mine:1.0.0", tmp_path).splits["train"]["x"].tolist() == [0, 0]


def png(array):
    buffer = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(array).save(buffer, "png")
    buffer.seek(0)
    return buffer


def test_images_of_a_stock_layout_are_decoded_without_tensorflow(tmp_path, tfds):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "stock_like"
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(4, 3, 3)),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                "text": tfds.features.Text(),
                "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for i, array in enumerate(pixels):
                yield i, {"image": png(array), "label": i % 2, "text": "a", "boxes": []}

    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Builder(data_dir=tmp_path, file_format="array_record").download_and_prepare(download_config=config)
    prepared = read("stock_like", tmp_path)
    assert prepared.classes == 2 and set(prepared.splits) == {"train", "test"}
    assert set(prepared.splits["train"]) == {"image", "label"}  # text and boxes have no fixed shape
    read_back = {a.tobytes() for a in prepared.splits["train"]["image"]}
    assert read_back == {a.tobytes() for a in pixels}


def prepare_stock(tfds, stock, folder, splits):
    """Write examples as TFDS would prepare its own set `stock`: its features, its version, without its source."""
    known = tfds.builder(stock)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = known.name
        VERSION = known.version
        BUILDER_CONFIGS = [known.builder_config] if known.builder_config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=known.info.features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(examples) for split, examples in splits.items()}

        def _generate_examples(self, examples):
            yield from enumerate(examples)

    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Builder(data_dir=folder, file_format="array_record").download_and_prepare(download_config=config)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("mnist", (28, 28, 1), 10),
        ("fashion_mnist", (28, 28, 1), 10),
        ("cifar10", (32, 32, 3), 10),
        ("cifar100", (32, 32, 3), 100),
        ("svhn_cropped", (32, 32, 3), 10),
        ("imagenet_resized/32x32", (32, 32, 3), 1000),
    ],
)
def test_stock_images_are_loaded_by_their_name(tmp_path, tfds, no_network, name, shape, classes):
    pixels = np.random.default_rng(0).integers(0, 256, (7, *shape), dtype=np.uint8)
    features = tfds.builder(name).info.features
    extra = {f: "train_1" if f == "id" else 0 for f in features if f not in ("image", "label")}
    examples = [{**extra, "image": png(p.squeeze()), "label": i} for i, p in enumerate(pixels)]
    prepare_stock(tfds, name, tmp_path, {"train": examples[:5], "test": examples[5:]})
    loaded = load(name, tmp_path)
    assert loaded.classes == classes and no_network == []
    for split, rows in ((loaded.train, range(5)), (loaded.valid, range(5, 7))):
        labels = np.asarray(split.fields["label"])
        assert sorted(labels) == list(rows) and split.fields.keys() >= {"image", "label"}
        np.testing.assert_allclose(split.fields["image"], pixels[labels] / 255.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["tiny_shakespeare", "lm1b", "imdb_reviews"])
def test_stock_texts_become_tokens_by_their_name(tmp_path, tfds, no_network, name):
    extra = {"label": 0} if name == "imdb_reviews" else {}
    texts = {"train": ["To be", "or not\0"], "test": ["naïve"]}
    splits = {split: [{**extra, "text": text} for text in part] for split, part in texts.items()}
    prepare_stock(tfds, name, tmp_path, splits)
    loaded = load(name, tmp_path)
    train, valid = (bytes(np.asarray(s.fields["token"], np.uint8)) for s in (loaded.train, loaded.valid))
    assert train in (b"To be\nor not\0", b"or not\0\nTo be") and valid == b"na??ve"
    assert loaded.classes == 128 and loaded.train.fields.keys() == {"token"} and no_network == []


@pytest.fixture
def mine(tmp_path):
    return import_arrays("mine", {"train": {"x": np.arange(2000)}}, tmp_path)


def test_a_set_in_a_format_of_tensorflow(mine, tmp_path):
    info = mine / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataUnavailable, match=r"stored as tfrecord, which only .*`tfds build mine .*--overwrite`$"):
        read("mine", tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "missing", "scrambled"])
def test_a_damaged_set(mine, tmp_path, damage):
    (record,) = mine.glob("*array_record-*")
    content = record.read_bytes()
    if damage == "truncated":
        record.write_bytes(content[: len(content) // 2])
    elif damage == "missing":
        record.unlink()
    else:
        record.write_bytes(content[:100] + bytes(len(content) - 100))
    with pytest.raises(DataUnavailable, match=rf"cannot be read .*: remove {mine} and prepare it again$") as caught:
        read("mine", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_metadata(mine, tmp_path, file):
    (mine / file).write_text("{")
    with pytest.raises(InputError) as caught:
        read("mine", tmp_path)
    assert "\n" not in str(caught.value)


def test_the_folder_is_the_argument_else_the_variable_else_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert data_directory("here").name == "here" and data_directory() == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_directory() == tmp_path / "tensorflow_datasets"
