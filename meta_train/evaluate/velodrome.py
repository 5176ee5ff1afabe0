"""Speed-ups over the published best baselines of VeLOdrome-type tasks.

google/learned_optimization publishes, for 125 tasks, the training loss of the best of {Adam, Adam with inverse
square root decay, Adam with exponential decay, RAdam} over learning rates and 5 seeds: point-wise the lowest, and its
running minimum, at 512 moments of 100,000 steps. With this envelope L(s) the speed-up of a run of T steps that
ends at the training loss l is

    s(l) / T,   L(s(l)) = l, linear between the moments

that is, how many times as many steps the best baseline needs: 0 where l is above the envelope, and 100,000 / T where
it is below. The envelope may change the optimizer along the way, so the bar is high; its moments are 196 steps apart,
so little can be said of runs of a few hundred steps.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from learned_opt.errors import InputError

LAST_STEP = 100_000
"""Steps of the published runs."""


class Envelope(NamedTuple):
    """The published curves."""

    task: tuple[str, ...]
    """Names of the tasks as published, such as ImageMLP_FashionMnist_Relu128x128."""
    steps: Float[np.ndarray, " moments"]
    """Updates made, ascending."""
    loss: Float[np.ndarray, "tasks moments"]
    """Training loss of the best baseline until then, not increasing."""


def envelope(path: Path | None) -> Envelope:
    """Read the arrays `task`, `steps` and `loss` of an .npz file.

    Raises:
      InputError: no path, the file cannot be read, or its arrays do not fit together.
    """
    if path is None:
        raise InputError("velodrome-baselines: not given, expected the .npz of published curves")
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            task, steps, loss = (arrays[name] for name in ("task", "steps", "loss"))
            if steps.ndim != 1 or loss.shape != (len(task), len(steps)):
                raise ValueError(f"loss of shape {loss.shape}, {len(task)} tasks and steps of shape {steps.shape}")
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"velodrome-baselines: cannot read {path} ({reason}); expected an .npz with task, steps and loss"
        ) from error
    return Envelope(tuple(str(name) for name in task), steps.astype(np.float64), loss.astype(np.float64))


def speed_up(curves: Envelope, name: str, final_loss: float | None, steps: int) -> float | None:
    """How many times the steps of this run the best published baseline needs to the same training loss.

    Args:
      curves: of `envelope`.
      name: of the task, as published.
      final_loss: training loss at the end; None if it diverged.
      steps: T of the run.

    Returns:
      The speed-up; None if the task is not among the published ones or the run diverged.
    """
    if name not in curves.task or final_loss is None:
        return None
    loss = curves.loss[curves.task.index(name)]
    if final_loss < loss[-1]:
        return LAST_STEP / steps
    falling, first = np.unique(-loss, return_index=True)  # of equal losses, the first step counts
    return float(np.interp(-final_loss, falling, curves.steps[first]) / steps)
