"""Preparing data sets on purpose: embedded ones, and those of TFDS, which takes a network and TensorFlow.

The only module that downloads. Without a network TFDS tries for minutes and then gives the error of a library three
levels below, so that what it needs is checked first.
"""

import importlib.util
import os
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.embedded import EMBEDDED
from tasks.errors import DataUnavailable
from tasks.importing import import_arrays
from tasks.storage import complete, data_directory, find_builder, first_line

_PATIENCE = 1.0  # seconds for a server to be found and to answer


def prepare(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Prepare a data set unless it is prepared, and return its folder.

    Args:
      name: of `tasks.embedded.EMBEDDED`, or of TFDS (`mnist`, `name/config`, `name:1.0.0`).
      data_dir: default TFDS_DATA_DIR, else ~/tensorflow_datasets, as TFDS does.

    Raises:
      InputError: for an unknown name, with the nearest ones.
      DataUnavailable: where TensorFlow, array_record or the network is missing, or where the download fails.
    """
    root = data_directory(data_dir)
    if name in EMBEDDED:
        if (known := _newest(root / name)) is not None:
            return known
        return import_arrays(name, EMBEDDED[name](), root)
    builder = find_builder(name, root)
    folder = Path(builder.data_path)
    if not complete(folder):
        _check_packages(name)
        _check_network(name, builder)
        folder = _download(name, root)
    return folder


def _newest(folder: Path) -> Path | None:
    versions = [version for version in folder.glob("[0-9]*") if complete(version)]
    return max(versions, default=None)


def _check_packages(name: str) -> None:
    for package in ("tensorflow", "array_record"):
        if importlib.util.find_spec(package) is None:
            raise DataUnavailable(
                f"data set {name!r} cannot be prepared without {package}: "
                f"run `pip install 'learned-opt[data]'` on Linux, or import your own copy by `learned-opt tasks import`"
            )


def _check_network(name: str, builder: Any) -> None:
    for url in sorted(builder.url_infos or ())[:1]:
        host, port = _server(url)
        complaint = _connect(host, port)
        if complaint is not None:
            raise DataUnavailable(
                f"data set {name!r} cannot be downloaded: {host} is out of reach ({complaint}): prepare it where there "
                f"is a network, and set TFDS_DATA_DIR to that folder, or import your own copy by "
                f"`learned-opt tasks import`"
            )


def _server(url: str) -> tuple[str, int]:
    """Whom a download from `url` talks to: its host, or the proxy that the environment names."""
    address = urlsplit(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 80)


def _connect(host: str, port: int) -> str | None:
    """None if the server answers in time, else why not. In a thread, because a look-up of a name has no time limit."""
    outcome = ["no answer"]

    def attempt() -> None:
        try:
            socket.create_connection((host, port), timeout=_PATIENCE).close()
            outcome.clear()
        except OSError as error:
            outcome[0] = first_line(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return outcome[0] if outcome else None


def _download(name: str, root: Path) -> Path:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=os.fspath(root), file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # of the network, of the file system, of the source, or a manual download
        raise DataUnavailable(f"data set {name!r} cannot be prepared in {root}: {first_line(error)}") from error
    return Path(builder.data_path)
