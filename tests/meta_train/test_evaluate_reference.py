"""The numbers of a whole evaluation as they were with jax 0.10.2: a change of them is a decision."""

import json

import evaluate_toy
import numpy as np

from meta_train.evaluate import evaluate

FIELDS = ("first_train_loss", "mean_train_loss", "final_train_loss", "final_valid_loss")
REFERENCE = {
    # optimizer, trial, seed: the fields above
    ("decayed_sgd", 0, 0): (3.19555, 0.331913, 0.0474604, 0.0464327),
    ("decayed_sgd", 0, 1): (3.82443, 0.380681, 0.0576482, 0.053239),
    ("adam", 0, 0): (3.19555, 3.78158, 2.9633, 3.15272),
    ("adam", 0, 1): (3.82443, 4.68842, 3.80847, 3.82731),
    ("adam", 1, 0): (3.19555, 2.63206, 1.1875, 1.22128),
    ("adam", 1, 1): (3.82443, 3.3576, 1.72401, 1.72772),
}
"""Task `small`, 40 steps, seed 0."""


def test_an_evaluation_gives_the_numbers_of_the_reference(tmp_path, monkeypatch):
    evaluate_toy.install(monkeypatch)
    evaluate(["decayed_sgd", "adam"], "toy", tmp_path, steps=40, seeds=2, trials=2, jobs=2)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    found = {
        (row["optimizer"], row["trial"], row["seed"]): [row[field] for field in FIELDS]
        for row in rows
        if row["task"] == "small"
    }
    assert found.keys() == REFERENCE.keys()
    for run, values in REFERENCE.items():
        np.testing.assert_allclose(found[run], values, rtol=1e-3, err_msg=str(run))
