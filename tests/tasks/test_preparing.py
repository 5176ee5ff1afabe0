import importlib.util
import socket
import time

import numpy as np
import pytest

from tasks import preparing
from tasks.data import load
from tasks.errors import DataUnavailable, InputError
from tasks.preparing import prepare


@pytest.fixture(scope="module", autouse=True)
def tfds():
    """Imported before the clock starts."""
    import tensorflow_datasets

    tensorflow_datasets.list_builders(with_community_datasets=False)
    return tensorflow_datasets


@pytest.fixture
def tensorflow(monkeypatch):
    """As if it were installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == "tensorflow" else find(name))


def unavailable(name, folder) -> str:
    start = time.perf_counter()
    with pytest.raises(DataUnavailable) as caught:
        prepare(name, folder)
    assert time.perf_counter() - start < 1.5
    assert "\n" not in str(caught.value) and list(folder.iterdir()) == []
    return str(caught.value)


def test_an_embedded_set_is_written_once(tmp_path):
    folder = prepare("sklearn_iris", tmp_path)
    assert folder == tmp_path / "sklearn_iris" / "1.0.0" and prepare("sklearn_iris", tmp_path) == folder
    assert load("sklearn_iris", tmp_path).train.size == 120


def test_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = unavailable("mnist", tmp_path)
    assert message.startswith("data set 'mnist' cannot be prepared without tensorflow: run `pip install 'learned-opt[")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn_cropped", "tiny_shakespeare", "lm1b", "imdb_reviews"])
def test_without_a_network(tmp_path, monkeypatch, tensorflow, name):
    def refuse(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    message = unavailable(name, tmp_path)
    assert message.startswith(f"data set {name!r} cannot be downloaded: ")
    assert "is out of reach ([Errno -3] Temporary failure in name resolution): " in message


def test_with_a_network_that_swallows_everything(tmp_path, monkeypatch, tensorflow):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(2) or [])
    assert "is out of reach (no answer): " in unavailable("mnist", tmp_path)


def test_an_unknown_name_gives_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"^unknown data set 'mnst': .*\bmnist\b") as caught:
        prepare("mnst", tmp_path)
    assert not isinstance(caught.value, DataUnavailable)


def test_a_proxy_is_asked_in_place_of_the_source(monkeypatch):
    assert preparing._server("https://example.org/a") == ("example.org", 443)
    assert preparing._server("http://example.org:8080/a") == ("example.org", 8080)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "other.org")
    assert preparing._server("https://example.org/a") == ("proxy", 3128)
    assert preparing._server("https://other.org/a") == ("other.org", 443)


def test_a_server_that_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert preparing._connect(*server.getsockname()) is None


@pytest.fixture(scope="module")
def catalogue(tfds):
    """Two sets in TFDS's catalogue: one that can be prepared, and one whose source fails."""

    class Fine(tfds.core.GeneratorBasedBuilder):
        name = "learned_opt_fine"
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"x": tfds.features.Scalar(np.int64)})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from ((i, {"x": i}) for i in range(10))

    class Failing(Fine):
        name = "learned_opt_failing"

        def _generate_examples(self):
            raise ConnectionError("Max retries exceeded\nand forty more lines")


def test_a_set_of_tfds_is_prepared_in_the_format_that_is_read(tmp_path, tensorflow, catalogue, capfd):
    folder = prepare("learned_opt_fine", tmp_path)
    assert folder == tmp_path / "learned_opt_fine" / "2.0.0"
    assert load("learned_opt_fine", tmp_path).train.size == 8
    stamps = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert prepare("learned_opt_fine", tmp_path) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == stamps


def test_a_download_that_fails_half_way_is_told_in_one_line(tmp_path, tensorflow, catalogue):
    with pytest.raises(DataUnavailable, match=r"^data set 'learned_opt_failing' cannot be prepared in .*: Max retries"):
        prepare("learned_opt_failing", tmp_path)
