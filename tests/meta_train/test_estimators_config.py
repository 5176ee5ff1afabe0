"""The estimator's settings: what is refused, what old runs had, and that every kind can be built and run."""

import dataclasses
import json
from typing import Any, get_args

import pytest

from learned_opt.errors import InputError
from meta_train import config as configs
from meta_train import estimators
from meta_train.config import EstimatorConfig, EstimatorKind
from meta_train.estimators.clock import Phases
from meta_train.noise import Dense
from meta_train.presets import PRESETS

DEBUG = PRESETS["debug"].config


def changed(**estimator: Any) -> Any:
    settings = {"pairs": 2, "window": 5, "sigma": 0.1} | estimator
    return dataclasses.replace(
        DEBUG,
        estimator=EstimatorConfig(**settings),
    )


@pytest.mark.parametrize("kind", get_args(EstimatorKind))
def test_every_kind_can_be_configured_and_built(kind: Any) -> None:
    config = changed(kind=kind, **({"interval": 3} if kind == "gpes" else {}))
    assert configs.from_json(json.loads(json.dumps(configs.to_json(config)))) == config
    estimator = estimators.build(config.estimator, max_horizon=20)
    assert estimator.inner_steps >= 2 * 5


def test_a_configuration_of_before_is_the_same_estimator() -> None:
    """config.json of a run that knew four settings."""
    values = configs.to_json(DEBUG)
    values["estimator"] = {"kind": "pes", "pairs": 2, "window": 5, "sigma": 0.01}
    assert configs.from_json(values) == DEBUG
    assert configs.difference(configs.from_json(values), DEBUG) == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "gpes"}, "estimator.interval None"),
        ({"kind": "pes", "interval": 3}, "estimator.interval 3"),
        ({"kind": "pes", "rank": 1}, "estimator.rank 1"),
        ({"kind": "es-single", "rank": 0}, "estimator.rank 0"),
        ({"kind": "forward", "shaping": "sign"}, "estimator.shaping sign"),
        ({"kind": "mix", "objective": "final"}, "estimator.objective final"),
        ({"kind": "pes", "alpha": 0.1}, "estimator.alpha 0.1"),
        ({"kind": "pes", "subspace": 2}, "estimator.subspace 2"),
        ({"kind": "guided", "alpha": 1.5}, "estimator.alpha 1.5"),
        ({"kind": "es-single", "segment": 5}, "estimator.segment 5"),
        ({"kind": "full-es", "burn_in": 5}, "estimator.burn_in 5"),
        ({"kind": "pes", "scales": {"w": -1.0}}, "estimator.scales.w -1.0"),
        ({"kind": "pes", "reference": "pes"}, "estimator.reference pes"),
        ({"kind": "pes", "reference": "gpes"}, "estimator.interval None"),
        ({"kind": "mix", "pairs": 1}, "estimator.pairs 1"),
        ({"kind": "pes", "objective": "final", "reference": "mix"}, "estimator.objective final"),
    ],
)
def test_settings_that_do_not_belong_together_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        changed(**settings)
    assert complaint in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reference_has_the_sizes_and_else_the_defaults() -> None:
    config = changed(kind="es-single", shaping="rank", rank=2, reference="pes", phases="uniform", window=4)
    reference = estimators.build(config.estimator, max_horizon=20).reference
    assert reference == estimators.pes(Dense(0.1), pairs=2, window=4, phases=Phases.UNIFORM)
