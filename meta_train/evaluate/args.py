"""Arguments of `learned-opt evaluate`; free of JAX, so that `--help` is instant."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvaluateArgs:
    """Compare optimizers on a suite of tasks: every one on the same initialisations and batches."""

    optimizers: str
    """Comma separated: run directories, pretrained names, baselines (`learned-opt list optimizers`)."""
    suite: str
    """Suite of tasks (`learned-opt list suites`)."""
    out: Path
    """Directory of the results; the same command again resumes or reprints what is there."""
    steps: int = 200
    """Updates per training run."""
    seeds: int = 5
    """Fresh initialisations and batch sequences per trial, the same for every optimizer."""
    seed: int = 0
    """Seed that all of them derive from."""
    rates: int = 7
    """Learning rates tried for each baseline, in half-decade steps; a learned optimizer gets one trial."""
