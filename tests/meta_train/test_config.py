import dataclasses
import json

import pytest

from learned_opt.errors import InputError
from meta_train import config as configs
from meta_train.config import MetaTrainConfig, RuleConfig
from meta_train.presets import PRESETS

DEBUG = PRESETS["debug"].config


@pytest.mark.parametrize("config", [preset.config for preset in PRESETS.values()], ids=list(PRESETS))
def test_survives_json(config: MetaTrainConfig) -> None:
    changed = dataclasses.replace(config, rule=RuleConfig(settings={"hidden": 8, "step_mult": 0.5, "mode": "x"}))
    for each in (config, changed):
        assert configs.from_json(json.loads(json.dumps(configs.to_json(each)))) == each


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda values: values.update(stepz=3), "extra fields found (stepz)"),
        (lambda values: values.pop("steps"), "required field missing @ config.steps"),
        (lambda values: values["horizon"].update(low="far"), "expected int @ config.horizon.low"),
        (lambda values: values["estimator"].update(kind="es"), "config.estimator.kind"),
    ],
)
def test_other_json_is_refused(change, expected: str) -> None:
    values = configs.to_json(DEBUG)
    change(values)
    with pytest.raises(InputError) as caught:
        configs.from_json(values)
    assert expected in str(caught.value)


def test_difference_names_each_field() -> None:
    other = dataclasses.replace(DEBUG, seed=5, rule=RuleConfig(settings={"hidden": 8}))
    assert configs.difference(DEBUG, DEBUG) == []
    assert configs.difference(DEBUG, other) == [
        "seed is 0 there, 5 here",
        "rule.settings.hidden is absent there, 8 here",
    ]


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"seed": -1}, {"checkpoint_every": 0}, {"steps": 2}],
)
def test_values_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected"):
        dataclasses.replace(DEBUG, **change)
