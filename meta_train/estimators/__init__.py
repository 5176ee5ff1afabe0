"""Meta-gradient estimators by name.

Each has `init(problem, theta, key) -> state` and `estimate(problem, theta, state) -> (gradient, state, metrics)`.
"""

from typing import Any, get_args

from learned_opt.errors import InputError
from meta_train.config import EstimatorConfig, EstimatorKind
from meta_train.estimators.analytic import PESAnalytic
from meta_train.estimators.backprop import Backprop
from meta_train.estimators.burn_in import BurnIn
from meta_train.estimators.clock import Phases
from meta_train.estimators.credit import Carry, Objective
from meta_train.estimators.evolution import Evolution
from meta_train.estimators.forward import Tangent
from meta_train.estimators.guided import GuidedES
from meta_train.estimators.mix import InverseVarianceMix
from meta_train.estimators.reference import Watched
from meta_train.estimators.shaping import Shaping
from meta_train.noise import Dense, LowRank, Noise


def es_single(noise: Noise, *, pairs: int, window: int, phases: Phases = Phases.SPREAD, **options: Any) -> Evolution:
    """ES-Single (= NRES): one draw an episode; its variance does not grow with the number of windows."""
    return Evolution(noise, pairs, window, interval=None, phases=phases, **options)


def pes(noise: Noise, *, pairs: int, window: int, phases: Phases = Phases.SPREAD, **options: Any) -> Evolution:
    """Persistent evolution strategies: a new draw every window, credited to all later steps of the episode."""
    return Evolution(noise, pairs, window, interval=window, phases=phases, **options)


def gpes(
    noise: Noise, *, pairs: int, window: int, interval: int, phases: Phases = Phases.SPREAD, **options: Any
) -> Evolution:
    """Generalised PES: a new draw every `interval` inner steps."""
    return Evolution(noise, pairs, window, interval=interval, phases=phases, **options)


def truncated_es(noise: Noise, *, pairs: int, window: int, phases: Phases = Phases.SPREAD, **options: Any) -> Evolution:
    """Truncated ES from the mean state: biased, it ignores how theta shaped the state a window starts from."""
    return Evolution(noise, pairs, window, interval=window, carry=Carry.MEAN, phases=phases, **options)


def full_es(noise: Noise, *, pairs: int, horizon: int, **options: Any) -> Evolution:
    """Whole episodes of at most `horizon` inner steps per estimate."""
    return Evolution(noise, pairs, horizon, interval=None, carry=Carry.NONE, **options)


def forward(
    *,
    pairs: int,
    window: int,
    interval: int | None = None,
    phases: Phases = Phases.SPREAD,
    noise: Noise | None = None,
    **options: Any,
) -> Evolution:
    """Forward mode along one direction of each pair: a new one every `interval` inner steps, or once an episode."""
    noise = noise or Dense(1.0)
    return Evolution(noise, pairs, window, interval, phases=phases, probe=Tangent(noise), **options)


def truncated_backprop(*, pairs: int, window: int, phases: Phases = Phases.SPREAD, **options: Any) -> Backprop:
    """Backpropagation through each window: biased, as truncated ES is, and without smoothing."""
    return Backprop(pairs, window, phases, **options)


def backprop(*, pairs: int, horizon: int, **options: Any) -> Backprop:
    """Backpropagation through whole episodes of at most `horizon` inner steps."""
    return Backprop(pairs, horizon, whole=True, **options)


def guided(
    noise: Dense,
    *,
    pairs: int,
    window: int,
    interval: int | None = None,
    phases: Phases = Phases.SPREAD,
    subspace: int = 1,
    alpha: float = 0.5,
    **options: Any,
) -> GuidedES:
    """ES-Single, or GPES, that prefers the directions of the last truncated gradients."""
    evolution = Evolution(noise, pairs, window, interval, phases=phases, **options)
    return GuidedES(evolution, subspace, alpha)


def build(config: EstimatorConfig, *, max_horizon: int) -> Any:
    """The estimator that a configuration describes, for episodes of at most `max_horizon` inner steps.

    Raises:
      InputError: unknown kind, or settings that do not belong together.
    """
    made = _build(config, config.kind, max_horizon)
    if config.reference is not None:
        sizes = {
            name: getattr(config, name) for name in ("pairs", "window", "sigma", "interval", "phases", "objective")
        }
        other = _build(EstimatorConfig(config.reference, **sizes), config.reference, max_horizon)
        made = Watched(made, other, tuple(config.scales.items()))
    return BurnIn(made, config.burn_in, config.window) if config.burn_in else made


def _build(config: EstimatorConfig, kind: EstimatorKind, max_horizon: int) -> Any:
    scales = tuple(config.scales.items())
    dense = Dense(config.sigma, scales)
    noise = dense if config.rank is None else LowRank(config.sigma, config.rank, scales=scales)
    phases = Phases(config.phases)
    size: dict[str, Any] = {"pairs": config.pairs, "window": config.window, "phases": phases}
    # "validation" is a property of the problem: see `objectives`.
    objective = Objective.FINAL if config.objective == "final" else Objective.MEAN
    of: dict[str, Any] = {"objective": objective}
    shaped: dict[str, Any] = of | {"shaping": Shaping(config.shaping)}
    match kind:
        case "es-single":
            return es_single(noise, **size, **shaped)
        case "pes":
            return pes(noise, **size, **shaped)
        case "gpes":
            return gpes(noise, **size, interval=config.interval or config.window, **shaped)
        case "truncated-es":
            return truncated_es(noise, **size, **shaped)
        case "full-es":
            return full_es(noise, pairs=config.pairs, horizon=max_horizon, **shaped)
        case "forward":
            return forward(**size, interval=config.interval, **of)
        case "truncated-backprop":
            return truncated_backprop(**size, segment=config.segment, **of)
        case "backprop":
            return backprop(pairs=config.pairs, horizon=max_horizon, segment=config.segment, **of)
        case "pes-analytic":
            return PESAnalytic(dense, **size, segment=config.segment)
        case "mix":
            return InverseVarianceMix(dense, **size, segment=config.segment)
        case "guided":
            subspace: dict[str, Any] = {"subspace": config.subspace, "alpha": config.alpha}
            return guided(dense, **size, interval=config.interval, **subspace, **shaped)
    raise InputError(f"estimator kind {kind!r}: expected one of {', '.join(get_args(EstimatorKind))}")
