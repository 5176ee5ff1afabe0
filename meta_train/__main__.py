"""`python -m meta_train`: the same program as `learned-opt`."""

import os
import sys
from typing import NoReturn

from meta_train.cli import main


def run() -> NoReturn:
    """The program as a process of its own."""
    status = main()
    if status > 128:
        # Taking Python down while XLA still compiles in another thread ends in a segmentation fault, not in `status`.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
