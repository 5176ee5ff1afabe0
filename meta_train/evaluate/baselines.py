"""Hand-designed optimizers, each with the grid of learning rates that it is tuned over.

A baseline is a line of `TABLE` (and of `names.BASELINES`). Everything but the rate is the optax default, the
important part of it written out in the description. The rate may be traced: a sweep is vmapped over it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax
from jaxtyping import Array, Float

from meta_train.evaluate.names import BASELINES

PyTree = Any

Rate = float | Float[Array, ""]
"""A learning rate, possibly traced."""


def trained_params(state: PyTree, params: PyTree) -> PyTree:
    """The parameters to evaluate: those being trained."""
    del state
    return params


@dataclass(frozen=True)
class Baseline:
    """A hand-designed optimizer and how it is tuned."""

    description: str
    """One line for tables and listings."""
    make: Callable[[Rate], optax.GradientTransformation]
    """learning_rate -> transform; the rate is a float or a traced scalar."""
    centre: float
    """Middle of the grid of rates, 1 or 3 times a power of ten."""
    evaluation_params: Callable[[PyTree, PyTree], PyTree] = trained_params
    """(optimizer state, trained parameters) -> the parameters whose final losses count."""


TABLE: dict[str, Baseline] = {
    "adam": Baseline(BASELINES["adam"], optax.adam, 1e-2),
    "adamw": Baseline(BASELINES["adamw"], optax.adamw, 1e-2),
    "lion": Baseline(BASELINES["lion"], optax.lion, 3e-3),
    "nadamw": Baseline(BASELINES["nadamw"], optax.nadamw, 1e-2),
    "rmsprop": Baseline(BASELINES["rmsprop"], optax.rmsprop, 1e-2),
    "schedule_free_adamw": Baseline(
        BASELINES["schedule_free_adamw"],
        optax.contrib.schedule_free_adamw,
        1e-2,
        optax.contrib.schedule_free_eval_params,
    ),
    "sgd": Baseline(BASELINES["sgd"], lambda rate: optax.sgd(rate, momentum=0.9), 1e-1),
}


def rate_grid(centre: float, n: int) -> tuple[float, ...]:
    """`n` learning rates in half-decade steps around `centre`, ascending: …, 0.003, 0.01, 0.03, ….

    Args:
      centre: 1 or 3 times a power of ten.
      n: at least 1; an even number puts the extra rate above the centre. Seven rates around 0.01 are
        3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1.
    """
    middle = round(2 * math.log10(centre))
    halves = range(middle - (n - 1) // 2, middle + n // 2 + 1)
    return tuple(float(f"{3 if half % 2 else 1}e{half // 2}") for half in halves)
