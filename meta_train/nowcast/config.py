"""Settings of a collection, a training run and an evaluation; attribute docstrings are the command line's help.

Importing this module loads no JAX.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from learned_opt.errors import InputError

MOST_TRIALS = 42
"""The largest named budget, see `meta_train.evaluate.budget`, which loads JAX."""


@dataclass(frozen=True)
class CollectConfig:
    """What is trained, and what is kept of it."""

    family: str = "wide-plain"
    """Distribution of tasks (`learned-opt list tasks`); those whose wiring is not known are passed over."""
    tasks: int = 12
    """Tasks drawn from it, of different architectures."""
    runs: int = 6
    """Training runs of each, of different seeds and rates; the last is held out for validation."""
    steps: int = 2000
    """Steps of a run."""
    every: int = 10
    """Steps between the states that are kept."""
    rate: Literal["tuned", "sampled"] = "tuned"
    """AdamW's rate: the best of 7 for the task, times a factor drawn for each run; or drawn alone."""
    low: float = 0.5
    """Smallest factor, or rate; drawn log-uniformly."""
    high: float = 2.0
    """Largest factor, or rate."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    seed: int = 0
    """All randomness derives from it."""

    def __post_init__(self) -> None:
        _at_least(self, tasks=1, runs=2, steps=1, every=1)
        if not 0.0 < self.low <= self.high < math.inf:
            raise InputError(f"low {self.low} and high {self.high}: expected positive numbers, low at most high")
        if self.steps % self.every:
            raise InputError(f"steps {self.steps}: expected a multiple of every {self.every}")


@dataclass(frozen=True)
class TrainConfig:
    """A network, and how it is trained."""

    network: Literal["wnn", "nino"] = "wnn"
    """WNN+, which looks at every parameter by itself, or NiNo, the graph network."""
    settings: dict[str, int | float] = field(default_factory=dict)
    """Settings of the network that differ from the published ones, as pairs: hidden 32."""
    steps: int = 4000
    """Steps of training."""
    tasks_per_step: int = 2
    """Tasks that a step has windows of."""
    windows: int = 4
    """Windows of each: five states and what follows them."""
    strides: tuple[int, ...] = (1, 2, 3, 5)
    """States from one state of a window to the next, equally likely."""
    flip: bool = True
    """Whether the sign of every tensor of a window is drawn. Permuted neurons, scales and offsets of tensors change no
    prediction, so need not be drawn."""
    learning_rate: float = 3e-3
    """Peak; after a warm-up over a fiftieth of the steps a cosine leads to a thousandth of it."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    clip_norm: float = 5.0
    """Largest norm of the gradient."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What weights are rounded to where the network is applied; masters and sums are float32."""
    seed: int = 0
    """All randomness derives from it."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    metrics_every: int = 50
    """Steps between lines of metrics.jsonl."""
    validation: int = 8
    """Windows of each task's held-out run that the results are measured on."""

    def __post_init__(self) -> None:
        _at_least(
            self, steps=1, tasks_per_step=1, windows=1, checkpoint_every=1, metrics_every=1, validation=1,
        )  # fmt: skip
        if not self.strides or min(self.strides) < 1:
            raise InputError(f"strides {self.strides}: expected whole numbers from 1")
        for name in ("learning_rate", "clip_norm"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} {getattr(self, name)!r}: expected a positive number")


@dataclass(frozen=True)
class EvaluateConfig:
    """What is compared on which tasks; everything that results depend on."""

    suite: str
    """Suite of tasks (`learned-opt list suites`), or names of tasks, comma separated."""
    steps: int = 2000
    """Updates per training run."""
    period: int = 250
    """Updates from jump to jump."""
    seeds: int = 5
    """Initialisations and batch sequences per trial, the same for every contender."""
    trials: int = 7
    """Tuning budget of every contender: 7 rates, 42 with schedules and weight decays, or any number between."""
    seed: int = 0
    """Seed that all of them derive from."""

    def __post_init__(self) -> None:
        _at_least(self, steps=10, period=5, seeds=1, trials=1)
        if self.trials > MOST_TRIALS:
            raise InputError(f"trials {self.trials}: expected a whole number from 1 to {MOST_TRIALS}")


def _at_least(config: Any, **least: int) -> None:
    for name, value in least.items():
        if getattr(config, name) < value:
            raise InputError(f"{name} {getattr(config, name)!r}: expected a whole number, at least {value}")
