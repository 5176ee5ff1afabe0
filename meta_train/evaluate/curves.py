"""Training curves as means over windows of steps."""

import numpy as np
from jaxtyping import Float, Int

STORED = 250
"""Points of a stored curve at most."""
POINTS = 100
"""Points of a curve that is judged, drawn or archived at most: so that no figure depends on where results are from."""


def windows(losses: Float[np.ndarray, "trials seeds T"]) -> dict[str, np.ndarray]:
    """Curves of at most `STORED` points: means over equal windows of steps, the last possibly shorter.

    Returns:
      `loss`, float32 [trials, seeds, points], and `step`, int32 [points]: the first step of each window.
    """
    steps = losses.shape[-1]
    first = np.arange(0, steps, -(-steps // STORED))
    lengths = np.diff(first, append=steps)
    with np.errstate(over="ignore", invalid="ignore"):  # diverged runs keep their inf and nan
        loss = np.add.reduceat(losses.astype(np.float64), first, axis=-1) / lengths.reshape(1, 1, -1)
        return {"loss": loss.astype(np.float32), "step": first.astype(np.int32)}


def coarser(
    step: Int[np.ndarray, " windows"], loss: Float[np.ndarray, "*runs windows"], steps: int
) -> tuple[Int[np.ndarray, " points"], Float[np.ndarray, "*runs points"]]:
    """Windows of windows, `POINTS` at most: the first step of each, and its mean loss; fewer windows stay as they are.

    Args:
      step: first step of each window.
      loss: means over the windows.
      steps: of the run.
    """
    if len(step) <= POINTS:
        return step, loss
    first = np.arange(0, len(step), -(-len(step) // POINTS))
    lengths = np.diff(step, append=steps)
    with np.errstate(over="ignore", invalid="ignore"):
        weighted = np.add.reduceat(loss.astype(np.float64) * lengths, first, axis=-1)
        return step[first], weighted / np.add.reduceat(lengths, first)
