"""What the language models share: windows of text, cut to the length that a model reads."""

from jaxtyping import Array, Int, Key

from tasks.errors import InputError
from tasks.ranges import log_uniform_int
from tasks.sources import Source, field_shape

Window = tuple[Int[Array, "B L"], Int[Array, "B L"]]


def window(batch: dict[str, Array], length: int) -> Window:
    """The first L tokens of {"input": (B, M), "target": (B, M)}, M >= L; InputError if there are fewer."""
    if batch["input"].shape[1] < length:
        raise InputError(f"windows of {batch['input'].shape[1]} tokens, the model reads {length}: use longer windows")
    return batch["input"][:, :length], batch["target"][:, :length]


def draw_length(key: Key[Array, ""], source: Source, low: int, high: int) -> int:
    """A length in [low, high], log-uniform; InputError if the windows of `source` are shorter than `high`."""
    longest = field_shape(key, source, "input")[1]
    if longest < high:
        raise InputError(f"data set {source.name!r}: windows of {longest} tokens, lengths up to {high} are drawn")
    return log_uniform_int(key, low, high)
