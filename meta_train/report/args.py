"""Arguments of `learned-opt report`; free of JAX, so that `--help` is instant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ReportArgs:
    """Write DIR/report.html: the evaluation in tables and figures, one file that opens without a network."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Output of `learned-opt evaluate`."""
