"""Meta-gradient estimators by name.

Each has `init(problem, theta, key) -> state` and `estimate(problem, theta, state) -> (gradient, state, metrics)`.
"""

from learned_opt.errors import InputError
from meta_train.config import EstimatorConfig
from meta_train.estimators.evolution import Carry, Evolution, Phases
from meta_train.noise import Dense, Noise


def es_single(noise: Noise, *, pairs: int, window: int, phases: Phases = Phases.SPREAD) -> Evolution:
    """ES-Single (= NRES): one draw an episode; its variance does not grow with the number of windows."""
    return Evolution(noise, pairs, window, interval=None, phases=phases)


def pes(noise: Noise, *, pairs: int, window: int, phases: Phases = Phases.SPREAD) -> Evolution:
    """Persistent evolution strategies: a new draw every window, credited to all later steps of the episode."""
    return Evolution(noise, pairs, window, interval=window, phases=phases)


def gpes(noise: Noise, *, pairs: int, window: int, interval: int, phases: Phases = Phases.SPREAD) -> Evolution:
    """Generalised PES: a new draw every `interval` inner steps."""
    return Evolution(noise, pairs, window, interval=interval, phases=phases)


def truncated_es(noise: Noise, *, pairs: int, window: int, phases: Phases = Phases.SPREAD) -> Evolution:
    """Truncated ES from the mean state: biased, it ignores how theta shaped the state a window starts from."""
    return Evolution(noise, pairs, window, interval=window, carry=Carry.MEAN, phases=phases)


def full_es(noise: Noise, *, pairs: int, horizon: int) -> Evolution:
    """Whole episodes of at most `horizon` inner steps per estimate."""
    return Evolution(noise, pairs, horizon, interval=None, carry=Carry.NONE)


def build(config: EstimatorConfig, *, max_horizon: int) -> Evolution:
    """The estimator that a configuration describes, for episodes of at most `max_horizon` inner steps.

    Raises:
      InputError: unknown kind.
    """
    noise = Dense(config.sigma)
    match config.kind:
        case "es-single":
            return es_single(noise, pairs=config.pairs, window=config.window)
        case "pes":
            return pes(noise, pairs=config.pairs, window=config.window)
        case "truncated-es":
            return truncated_es(noise, pairs=config.pairs, window=config.window)
        case "full-es":
            return full_es(noise, pairs=config.pairs, horizon=max_horizon)
    raise InputError(f"estimator kind {config.kind!r}: expected es-single, pes, truncated-es or full-es")
