"""Files of named arrays that other projects write: safetensors, and msgpack as flax packs it.

Nothing in a file is executed, and no array is made whose bytes are not there. Format of flax: `flax.serialization`, a
map of maps; an array is extension 1 of msgpack, a numpy scalar extension 3: (shape, name of the dtype, bytes).
"""

import math
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import safetensors

DTYPES = {"float16", "float32", "float64", "bfloat16", "int8", "int32", "int64", "uint8", "uint32", "uint64"}
SAFETENSORS_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}
FOREIGN = {
    b"\x80": "a pickle, which runs code when it is read: convert it with the project that wrote it",
    b"PK": "a zip archive, as torch.save and numpy.savez make: convert it with the project that wrote it",
    b"version https://git-lfs": "a Git LFS pointer and not the weights: fetch them with `git lfs pull`",
}
"""First bytes -> what such a file is, and what to do."""

Tensors = dict[str, np.ndarray]
"""Arrays by their path, levels joined by "/"."""


class Unreadable(Exception):
    """What is wrong with a file, said without its name."""


def container(data: bytes) -> str:
    """ "safetensors" or "msgpack", by the first bytes.

    Raises:
      Unreadable: an empty file, or one of another kind that is known.
    """
    if not data:
        raise Unreadable("is empty: fetch it again")
    # The length of the header in 8 bytes, that may look like anything, then the header, a JSON object.
    if data[8:9] == b"{":
        return "safetensors"
    for head, text in FOREIGN.items():
        if data.startswith(head):
            raise Unreadable(f"is {text}")
    return "msgpack"


def read_safetensors(data: bytes) -> Tensors:
    """Arrays of a safetensors file.

    Raises:
      Unreadable: it is damaged, or holds arrays that are not of floating numbers.
    """
    try:
        parts = safetensors.deserialize(data)
        dtype = lambda name: SAFETENSORS_DTYPES.get(name, name)
        return {name: _array(x["shape"], dtype(x["dtype"]), x["data"]) for name, x in parts}
    except (ValueError, TypeError, KeyError, OverflowError, safetensors.SafetensorError) as error:
        raise Unreadable(f"is truncated, or no safetensors file ({brief(error)}): fetch it again") from error


def read_msgpack(data: bytes) -> Any:
    """What a msgpack file holds: maps, lists, strings, numbers, and numpy arrays where flax packed them.

    Raises:
      Unreadable: it is damaged.
    """
    try:
        return msgpack.unpackb(data, ext_hook=_extension)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise Unreadable(f"is truncated, or no msgpack file ({brief(error)}): fetch it again") from error


def flatten(tree: Any) -> Tensors:
    """Arrays of nested maps by their path; arrays that flax cut into chunks are joined.

    Raises:
      Unreadable: something else than maps and arrays.
    """
    flat, todo = Tensors(), [((), tree)]
    while todo:
        path, node = todo.pop()
        name = "/".join(path)
        if isinstance(node, dict) and "__msgpack_chunked_array__" in node:
            flat[name] = _joined(node)
        elif isinstance(node, dict):
            todo += [((*path, str(key)), value) for key, value in node.items()]
        elif isinstance(node, np.ndarray):
            flat[name] = node
        else:
            raise Unreadable(f"holds a {type(node).__name__} at {brief(name)}: expected arrays of weights")
    return flat


def brief(thing: Any) -> str:
    """A name, a value or an error out of a file, short and on one line."""
    text = f"{type(thing).__name__}: {thing}" if isinstance(thing, Exception) else repr(thing)
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:99]}…"


def _extension(code: int, data: bytes) -> np.ndarray:
    if code not in (1, 3):
        raise ValueError(f"extension {code} of msgpack")
    shape, dtype, raw = msgpack.unpackb(data, raw=True)
    return _array(shape, dtype.decode("ascii") if isinstance(dtype, bytes) else None, raw)


def _array(shape: Any, dtype: str | None, raw: Any) -> np.ndarray:
    if dtype not in DTYPES:
        raise ValueError(f"an array of dtype {brief(dtype)}")
    # Before numpy sees it: a shape may claim any size.
    if len(shape) > 8 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"an array of shape {brief(shape)}")
    kind = np.dtype(jnp.bfloat16 if dtype == "bfloat16" else dtype)
    if math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError(f"an array of shape {brief(shape)} and dtype {dtype} in {len(raw)} bytes")
    return np.frombuffer(raw, kind).reshape(shape)


def _joined(node: dict[str, Any]) -> np.ndarray:
    try:
        shape, chunks = ([node[part][str(i)] for i in range(len(node[part]))] for part in ("shape", "chunks"))
        return _array(shape, str(chunks[0].dtype), b"".join(chunk.tobytes() for chunk in chunks))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Unreadable(
            f"holds a chunked array that does not fit together ({brief(error)}): fetch it again"
        ) from error
