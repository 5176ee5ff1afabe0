"""`python -m meta_train`: the same program as `learned-opt`."""

import sys

from meta_train.cli import main

if __name__ == "__main__":
    sys.exit(main())
