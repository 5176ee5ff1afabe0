"""What a learned optimizer was made on is told where it is judged on it."""

import json

import evaluate_toy
import jax.numpy as jnp
import pytest

import learned_opt
from learned_opt.pretrained import Pretrained
from meta_train.evaluate import contenders, evaluate
from meta_train.evaluate import seen as seen_module
from meta_train.evaluate.seen import trained_on
from meta_train.evaluate.summary import TrainedOn
from tasks import suites
from tasks.provenance import Provenance

pytestmark = pytest.mark.quick_compilation


def seen(data, suite="digits"):
    """What is found of weights with this entry in their card, and what is said."""
    said = []
    contender = contenders.learned("mine", evaluate_toy.ScaledSGD(), {}, {"data": data})
    found = trained_on([contenders.baseline("adam", 1), contender], suites.suite(suite), said.append)
    assert list(found) == ["mine"]
    return found["mine"], said


def test_a_suite_with_the_data_of_training():
    found, said = seen({"family": "digits-mlp", "tasks": ["digits_mlp_32"]})
    both = ["digits_mlp_32", "digits_mlp_96x96x96_tanh"]
    assert found == TrainedOn("digits-mlp", {task: ["data set sklearn_digits"] for task in both})
    (line,) = said
    assert line == (
        "warning: mine was made on digits-mlp, and 2 of 2 tasks are not held out from it "
        "(data set sklearn_digits); judge it on another suite, such as held-out"
    )


def test_a_suite_that_is_held_out():
    assert seen({"family": "wide", "tasks": []}, "held-out-mini") == (TrainedOn("wide", {}), [])


@pytest.mark.parametrize(
    "data, distribution",
    [("not stated", None), ({}, None), ({"family": None}, None), ({"family": "gone", "tasks": [3]}, "gone")],
)
def test_what_is_not_known_is_not_warned_of(data, distribution):
    assert seen(data) == (TrainedOn(distribution, None), [])


def test_an_evaluation_says_so_once_and_keeps_it(tmp_path, monkeypatch, capsys):
    evaluate_toy.install(monkeypatch)
    monkeypatch.setattr(seen_module, "of_task", lambda task: Provenance(frozenset({task.name}), {"image_mlp": {}}))
    training = Provenance(frozenset({"large"}), {"image_mlp": {}})
    monkeypatch.setattr(seen_module, "of_training", lambda distribution, drawn: training)
    card = {"data": {"family": "digits-mlp", "tasks": []}}
    mine = Pretrained(rule=evaluate_toy.ScaledSGD(), theta={"rate": jnp.float32(0.3)}, card=card)
    monkeypatch.setitem(vars(learned_opt), "load_pretrained", lambda name: mine)
    evaluate(["decayed_sgd"], "toy", tmp_path, steps=4, seeds=1, trials=1, jobs=1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    shared = {"small": ["image_mlp of a size that is trained on"], "large": ["data set large"]}
    assert summary["trained_on"] == {"decayed_sgd": {"distribution": "digits-mlp", "shared": shared}}
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "2 of 2 tasks" in warnings[0]
