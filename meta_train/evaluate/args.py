"""Arguments of `learned-opt evaluate`; free of JAX, so that `--help` is instant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class EvaluateArgs:
    """Compare optimizers on a suite of tasks: every one on the same initialisations and batches."""

    optimizers: str
    """Comma separated: run directories, pretrained names, baselines (`learned-opt list optimizers`)."""
    suite: str
    """Suite of tasks (`learned-opt list suites`)."""
    out: Path
    """Directory of the results; the same command again resumes or reprints what is there, and one with other
    optimizers adds to it."""
    steps: int = 200
    """Updates per training run."""
    seeds: int = 5
    """Fresh initialisations and batch sequences per trial, the same for every optimizer."""
    seed: int = 0
    """Seed that all of them derive from."""
    trials: int = 7
    """Tuning budget of each baseline: 1, 7 learning rates, 42 with schedules and weight decays, or any number
    between; a learned optimizer gets one trial, unless +tuned ends its name."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Optimizers trained at a time; by default the CPU cores, at most 8, and 1 on accelerators."""
    rerun_baselines: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train the baselines also where their archived results fit."""
    overhead: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also measure what an update and a training step cost beside Adam, on the task of the most parameters."""
    velodrome_baselines: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Published curves of the VeLOdrome tasks (.npz), for the speed-ups of the suite velodrome."""
