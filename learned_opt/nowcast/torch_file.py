"""Tensors of a file that `torch.save` wrote, without PyTorch and without running what the file says.

Format of PyTorch since 1.6: a zip archive of `<name>/data.pkl`, a pickle of the objects, and `<name>/data/<key>`, the
bytes of each storage. A pickle is a program that names functions to call. The reader here resolves a few names, to
functions of its own that only build tensors, and refuses any other before it is called; nothing is ever imported.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from learned_opt.containers import Tensors, Unreadable, brief

STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
}
"""Types of storages -> dtypes of numpy."""
LARGEST = 1 << 31
"""Bytes that an archive may unpack to."""


class _Storage(NamedTuple):
    """A type of storage, as the pickle names it."""

    dtype: Any


def read(data: bytes) -> Tensors:
    """The tensors of a state dict, or of the entry "state_dict" of a checkpoint, by name.

    Raises:
      Unreadable: a file of another kind, one that is damaged, or one that names anything but tensors.
    """
    if not data.startswith(b"PK"):
        raise Unreadable("is no zip archive as torch.save writes since PyTorch 1.6: fetch it again, or save it anew")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise Unreadable(f"unpacks to more than {LARGEST >> 30} GiB: expected the weights of a small network")
            files = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise Unreadable(f"is truncated, or no zip archive ({brief(error)}): fetch it again") from error
    if "data.pkl" not in files:
        raise Unreadable("is a zip archive without data.pkl: expected a file of torch.save")
    if files.get("byteorder", b"little") != b"little":
        raise Unreadable("has numbers that are not little-endian: save it anew on a usual machine")
    try:
        tree = _Reader(files).load()
    except Unreadable:
        raise
    except Exception as error:  # a damaged pickle raises about anything
        raise Unreadable(f"has a damaged data.pkl ({brief(error)}): fetch it again") from error
    if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        tree = tree["state_dict"]
    if not isinstance(tree, dict) or not all(isinstance(x, np.ndarray) for x in tree.values()):
        raise Unreadable(f"holds a {type(tree).__name__}: expected a state dict of tensors")
    return {str(name): x for name, x in tree.items()}


class _Reader(pickle.Unpickler):
    """A pickle machine whose only functions are those of `find_class`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(io.BytesIO(files["data.pkl"]))
        self.files = files

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return _Storage(STORAGES[name])
        # New functions each time: a pickle may set attributes of what it was given.
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _tensor(*arguments),
            ("torch._utils", "_rebuild_parameter"): lambda x, *_: x,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise Unreadable(f"names {brief(f'{module}.{name}')} in its pickle: expected tensors only, it is not read")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        tag, storage, key, _, count = pid
        if tag != "storage" or not isinstance(storage, _Storage):
            raise ValueError(f"a reference {brief(pid)}")
        values = np.frombuffer(self.files[f"data/{key}"], storage.dtype)
        if len(values) != count:
            raise ValueError(f"storage {brief(key)} of {len(values)} numbers, expected {brief(count)}")
        return values


def _tensor(values: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> np.ndarray:
    """The view of a storage; one of other numbers than a dense array has is refused."""
    sizes = tuple(map(int, shape))
    order = sorted(range(len(sizes)), key=lambda axis: -stride[axis])
    dense = [math.prod(sizes[a] for a in order[n + 1 :]) for n in range(len(order))]
    count = math.prod(sizes)
    odd = any(sizes[a] != 1 and stride[a] != step for a, step in zip(order, dense, strict=True))
    if odd or min(sizes, default=1) < 1 or not 0 <= offset <= offset + count <= len(values):
        raise ValueError(f"a tensor of shape {brief(sizes)} with strides {brief(stride)}")
    flat = values[offset : offset + count].reshape([sizes[a] for a in order])
    return np.transpose(flat, np.argsort(order))
