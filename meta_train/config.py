"""Configuration of a meta-training run: frozen dataclasses whose attribute docstrings are the command line's help.

Importing this module loads no JAX. A configuration is saved whole as JSON and read back exactly.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args

from learned_opt.errors import InputError

EstimatorKind = Literal[
    "es-single", "pes", "gpes", "truncated-es", "full-es", "forward", "truncated-backprop", "backprop",
    "pes-analytic", "mix", "guided",
]  # fmt: skip
EVOLUTION = ("es-single", "pes", "gpes", "truncated-es", "full-es", "guided")
"""Kinds that weight noise with differences of losses."""


@dataclass(frozen=True)
class RuleConfig:
    """The learned optimizer whose weights are sought."""

    name: str = "small_fc"
    """Architecture."""
    settings: dict[str, int | float | str] = field(default_factory=dict)
    """Settings that differ from the architecture's defaults, as pairs: hidden 8 step_mult 0.01."""
    start: str | None = None
    """Weights to begin with: a release, or the folder of a run, of the same architecture; expert: those that imitate a
    hand-made optimizer, where the architecture has such; None: drawn with the seed."""


@dataclass(frozen=True)
class TasksConfig:
    """What the optimizer trains while its weights are sought."""

    family: str
    """Distribution of tasks (`learned-opt list tasks`)."""
    samples: int = 1
    """Tasks drawn from it with the seed. Each is compiled once, and every outer step averages over all of them."""


@dataclass(frozen=True)
class HorizonConfig:
    """Length of an inner training run, log-uniform between two bounds; equal bounds make it constant."""

    low: int
    """Shortest, in inner steps."""
    high: int
    """Longest, in inner steps."""


@dataclass(frozen=True)
class FactorConfig:
    """What multiplies the steps, for a rule that will be used with a learning rate; by default nothing does."""

    low: float = 1.0
    """Lowest learning rate; it is log-uniform, drawn once an episode."""
    high: float = 1.0
    """Highest."""
    cosine: bool = False
    """Whether it goes to zero along a cosine over the episode."""


@dataclass(frozen=True)
class EstimatorConfig:
    """How the gradient of the meta-loss is estimated."""

    kind: EstimatorKind
    """Evolution strategy: es-single keeps its noise for an episode, pes renews it every window, gpes every
    `interval` steps, truncated-es forgets what came before the window, full-es runs whole episodes, guided prefers
    the directions of truncated gradients. Derivative: truncated-backprop, backprop of whole episodes, forward along
    random directions. Both: pes-analytic, and mix, weighted by variances. See docs/estimators.md."""
    pairs: int
    """Antithetic pairs N; particles of backprop, directions of forward."""
    window: int
    """Inner steps W per estimate; full-es and backprop take the longest horizon instead."""
    sigma: float
    """Standard deviation of the noise on a weight; backprop and forward have none."""
    interval: int | None = None
    """Inner steps K between noise draws, of gpes, forward and guided; None: once an episode."""
    phases: Literal["spread", "uniform", "lockstep"] = "spread"
    """Where in their episodes the pairs start: evenly spread, drawn, or all together."""
    burn_in: int = 0
    """Inner steps of every particle before the first estimate; the longest horizon makes it like all others."""
    objective: Literal["mean", "final", "validation", "relative"] = "mean"
    """Mean training loss over the steps, that of the last step, mean validation loss after each step (costly), or
    relative: mean logarithm of the training loss, the last steps counting most."""
    shaping: Literal["none", "sign", "rank", "standardised", "running"] = "none"
    """What replaces the differences of losses that weight the noise; all but none bias the gradient."""
    rank: int | None = None
    """Rank of the noise on matrices of at least 65,536 weights, of es-single, truncated-es and full-es; None: dense."""
    scales: dict[str, float] = field(default_factory=dict)
    """Factors on sigma and on the learning rate, as pairs of a part of a leaf's path and its factor: lstm 0.5. With 0 a
    part stays as it is."""
    alpha: float = 0.5
    """Of guided: share of the noise's variance that is spread over all weights."""
    subspace: int = 1
    """Of guided: truncated gradients that span the subspace."""
    segment: int | None = None
    """Of kinds that backpropagate: steps whose values are recomputed together, to save memory; None: keep all."""
    reference: EstimatorKind | None = None
    """A second estimator with the same pairs, window, sigma, interval, phases and objective, run beside the first,
    other settings at their defaults; the cosine of their gradients, without the parts that scales keep as they are, is
    a metric."""


@dataclass(frozen=True)
class MetaOptimizerConfig:
    """AdamW on the estimated gradient, which is clipped before it."""

    learning_rate: float
    """Peak learning rate."""
    warmup_steps: int
    """Outer steps of linear warm-up from zero; a cosine follows until the last outer step."""
    final_fraction: float = 0.1
    """Learning rate at the end, as a fraction of the peak."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    weight_decay: float = 0.0
    """Decoupled weight decay, per step and unit of learning rate."""


@dataclass(frozen=True)
class MetaTrainConfig:
    """Everything that determines the result of a meta-training run."""

    tasks: TasksConfig
    horizon: HorizonConfig
    estimator: EstimatorConfig
    meta_optimizer: MetaOptimizerConfig
    steps: int
    """Outer steps of the whole run; the learning rate schedule spans them."""
    rule: RuleConfig = field(default_factory=RuleConfig)
    factor: FactorConfig = field(default_factory=FactorConfig)
    seed: int = 0
    """All randomness derives from it."""
    checkpoint_every: int = 500
    """Outer steps between checkpoints."""
    metrics_every: int = 50
    """Outer steps that a line of metrics.jsonl averages over."""
    scored_episodes: int = 16
    """Fixed episodes per task on which the meta-loss is measured before and after."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
          InputError: naming the field, its value and what was expected.
        """
        at_least_one = (
            "tasks.samples", "horizon.low", "estimator.pairs", "estimator.window", "steps", "checkpoint_every",
            "metrics_every", "scored_episodes",
        )  # fmt: skip
        positive = ("estimator.sigma", "meta_optimizer.learning_rate", "meta_optimizer.clip_norm")
        not_negative = ("meta_optimizer.warmup_steps", "meta_optimizer.weight_decay", "seed")
        values = dict(flatten(self))
        for name in at_least_one:
            _require(1 <= values[name] < 2**31, name, values[name], "from 1 to 2147483647")
        for name in positive:
            _require(0 < values[name] < math.inf, name, values[name], "a finite number above 0")
        for name in not_negative:
            _require(0 <= values[name] < 2**32, name, values[name], "from 0 to 4294967295")
        low, warmup, fraction = (
            self.horizon.low,
            self.meta_optimizer.warmup_steps,
            self.meta_optimizer.final_fraction,
        )
        _require(self.horizon.high < 2**31, "horizon.high", self.horizon.high, "at most 2147483647")
        _require(self.horizon.high >= low, "horizon.high", self.horizon.high, f"at least horizon.low = {low}")
        for name in ("factor.low", "factor.high"):
            _require(0 < values[name] < math.inf, name, values[name], "a finite number above 0")
        _require(self.factor.low <= self.factor.high, "factor.high", self.factor.high, "at least factor.low")
        _require(0 <= fraction <= 1, "meta_optimizer.final_fraction", fraction, "a number from 0 to 1")
        _require(
            warmup < self.steps,
            "meta_optimizer.warmup_steps",
            warmup,
            f"fewer than the {self.steps} outer steps; lower it too",
        )
        _check_estimator(self.estimator)


def _check_estimator(config: EstimatorConfig) -> None:
    """Refuse settings that do not belong together."""
    kind = config.kind
    for name in ("interval", "rank", "segment"):
        value = getattr(config, name)
        _require(value is None or 1 <= value < 2**31, f"estimator.{name}", value, "none, or from 1 to 2147483647")
    _require(0 <= config.burn_in < 2**31, "estimator.burn_in", config.burn_in, "from 0 to 2147483647")
    _require(config.subspace >= 1, "estimator.subspace", config.subspace, "at least 1")
    _require(0 <= config.alpha <= 1, "estimator.alpha", config.alpha, "a number from 0 to 1")
    for part, factor in config.scales.items():
        _require(0 <= factor < math.inf, f"estimator.scales.{part}", factor, "a finite factor, at least 0")
    _require(config.reference != kind, "estimator.reference", config.reference, "another kind than estimator.kind")
    belongs: dict[str, tuple[bool, tuple[str, ...]]] = {
        "interval": (config.interval is not None, ("gpes", "forward", "guided")),
        "rank": (config.rank is not None, ("es-single", "truncated-es", "full-es")),
        "shaping": (config.shaping != "none", EVOLUTION),
        "objective": (
            config.objective == "final",
            tuple(k for k in get_args(EstimatorKind) if k not in ("pes-analytic", "mix")),
        ),
        "alpha": (config.alpha != 0.5, ("guided",)),
        "subspace": (config.subspace != 1, ("guided",)),
        "segment": (config.segment is not None, ("truncated-backprop", "backprop", "pes-analytic", "mix")),
        "burn_in": (config.burn_in > 0, tuple(k for k in get_args(EstimatorKind) if k not in ("full-es", "backprop"))),
        "scales": (bool(config.scales), ("es-single", "pes", "gpes", "truncated-es", "full-es", "pes-analytic", "mix")),
    }
    for name, (used, kinds) in belongs.items():
        if kind not in kinds:
            value = getattr(config, name)
            _require(not used, f"estimator.{name}", value, f"the default for {kind}; for {', '.join(kinds)}")
    for each in (kind, config.reference):
        _require(
            each != "gpes" or config.interval is not None,
            "estimator.interval", config.interval, "inner steps between noise draws for gpes, at least 1",
        )  # fmt: skip
        _require(each != "mix" or config.pairs >= 2, "estimator.pairs", config.pairs, "at least 2 for mix")
        _require(
            config.objective != "final" or each is None or each in belongs["objective"][1],
            "estimator.objective", config.objective, f"mean or validation: {each} has no final loss",
        )  # fmt: skip


def to_json(config: MetaTrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    return _converter().unstructure(config)


def from_json(values: Mapping[str, Any]) -> MetaTrainConfig:
    """The configuration that `to_json` gave `values` for.

    Raises:
      InputError: a field is missing, unknown or of the wrong type.
    """
    import cattrs

    try:
        return _converter().structure(values, MetaTrainConfig)
    except cattrs.BaseValidationError as error:
        ranges = [str(leaf) for leaf in _leaves(error) if isinstance(leaf, InputError)]
        reasons = "; ".join(ranges or cattrs.transform_error(error, path="config"))
        raise InputError(f"not a configuration of this version: {reasons}") from error


def difference(theirs: MetaTrainConfig, ours: MetaTrainConfig) -> list[str]:
    """One entry for each field that differs: "estimator.window is 20 there, 50 here"."""
    there, here = dict(flatten(theirs)), dict(flatten(ours))
    names = [*there, *(name for name in here if name not in there)]
    return [
        f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in names
        if name not in there or name not in here or there[name] != here[name]
    ]


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every field, in order."""
    values = config if isinstance(config, Mapping) else {f.name: getattr(config, f.name) for f in fields(config)}
    for name, value in values.items():
        if is_dataclass(value) or isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _require(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise InputError(f"{name} {value}: expected {expected}")


def _converter() -> Any:
    from cattrs.preconf.json import make_converter

    return make_converter(forbid_extra_keys=True)
