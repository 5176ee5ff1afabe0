"""Text that comes with Python: its standard library and the English of its documentation.

The bytes are those of the interpreter that prepares a set first, so that they differ between versions of Python; the
prepared set stays as it is until its folder is removed. Both are under the PSF licence. `tasks.data.load` turns the
field "text" into the field token int32 (N,) of 128 values: ASCII, and "?" in place of each byte beyond it.
"""

import sysconfig
from pathlib import Path

from tasks.embedded.splits import Splits, split_text
from tasks.errors import DataUnavailable

_SOURCE_BYTES = 2_000_000


def python_source() -> Splits:
    """Source code of the standard library: 1.6 MB to train on, and the 0.4 MB after them to validate.

    The modules that are single files, in alphabetical order without regard to case, up to 2 MB; packages, among them
    tests and pydoc_data, are left out, and so are files of this build (_sysconfigdata). To be learned: keywords,
    indentation, names that recur.
    """
    folder = _library()
    modules = sorted(folder.glob("*.py"), key=lambda file: (file.name.lower(), file.name))
    text = b"\n".join(file.read_bytes() for file in modules if not file.name.startswith("_sysconfigdata"))
    if len(text) < _SOURCE_BYTES:
        raise DataUnavailable(
            f"data set 'python_source': {folder} holds {len(text)} bytes of source, expected {_SOURCE_BYTES}: "
            f"use a Python that comes with its standard library as source files"
        )
    return split_text(text[:_SOURCE_BYTES])


def python_topics() -> Splits:
    """English documentation of the language, by topic: about 0.4 MB to train on, and the 0.1 MB after to validate.

    The values of the dictionary in pydoc_data/topics.py, in alphabetical order of the topics; its long lines are
    wrapped. To be learned: English words, references, tables and grammar rules.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataUnavailable(
            "data set 'python_topics': this Python lacks pydoc_data.topics: use one with its whole standard library"
        ) from error
    return split_text("\n".join(topics[name] for name in sorted(topics)).encode())


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))
