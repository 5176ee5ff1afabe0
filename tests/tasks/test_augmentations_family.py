"""How often and with which settings tasks are augmented."""

from collections import Counter
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tasks.augmentations import Augmented, AugmentedFamily, LabelNoise, Odds, Reparametrised, Subspace
from tasks.data import Dataset, Split
from tasks.families.image_mlp import ImageMLP
from tasks.families.quadratic import quadratic
from tasks.model_task import ModelTask
from tasks.sources import Examples
from tasks.task import OneTask, TaskFamily

KEY = jax.random.key(0)
SAMPLES = 400


def classifier():
    split = Split({"image": jnp.zeros((4, 2)), "label": jnp.zeros(4, jnp.int32)})
    return OneTask("c", ModelTask(Examples(Dataset(split, split, "made_up", 3)), ImageMLP((), "relu", 3), "c"))


def unwrap(task):
    """The augmentations, outermost first."""
    found = []
    while hasattr(task, "task"):
        found.append(task)
        task = task.task
    return found


@pytest.fixture(scope="module")
def drawn():
    family = AugmentedFamily("f", classifier())
    return [family.sample(key) for key in jax.random.split(jax.random.key(1), SAMPLES)]


@pytest.fixture(scope="module")
def kinds(drawn):
    found = {}
    for augmentation in (a for task in drawn for a in unwrap(task)):
        found.setdefault(type(augmentation).__name__, []).append(augmentation)
    return found


@pytest.mark.parametrize(
    ("kind", "probability"),
    [
        ("Reparametrised", 5 / 7),
        ("ESGradients", 0.08),
        ("ReducedBatch", 0.2),
        ("LowPrecision", 0.2),
        ("NormalisedGradients", 0.05),
        ("Subspace", 0.08),
        ("DelayedGradients", 0.05),
        ("LabelNoise", 0.05),
    ],
)
def test_published_probabilities(kinds, kind, probability):
    assert stats.binomtest(len(kinds[kind]), SAMPLES, probability).pvalue > 1e-3


def test_published_settings(kinds):
    scaled = kinds["Reparametrised"]
    levels = Counter(a.level for a in scaled)
    expected = [2 / 5, 2 / 5, 1 / 5]
    assert (
        stats.chisquare(
            [levels[v] for v in ("global", "tensor", "parameter")], np.multiply(expected, len(scaled))
        ).pvalue
        > 1e-3
    )
    scales = Counter(a.scale for a in scaled)
    assert set(scales) == {(1e-3, 1e3), (1e-2, 1e2), (1e-1, 1e1)}
    assert stats.chisquare(list(scales.values())).pvalue > 1e-3
    assert {a.pairs for a in kinds["ESGradients"]} == {1, 2, 4, 8, 16}
    sigma = [np.log10(a.sigma) / 2 + 1.5 for a in kinds["ESGradients"]]
    assert stats.kstest(sigma, "uniform").pvalue > 1e-3
    assert stats.kstest([(a.fraction - 0.01) / 0.99 for a in kinds["ReducedBatch"]], "uniform").pvalue > 1e-3
    directions = [a.directions for a in kinds["Subspace"]]
    assert stats.kstest(np.log2(directions) / 10, "uniform").pvalue > 1e-3
    assert min(directions) >= 1 and max(directions) <= 1024
    assert {a.weight for a in kinds["Subspace"]} == {"projected", "sign"}
    assert {a.delay for a in kinds["DelayedGradients"]} <= set(range(1, 9))


def test_augmentations_are_independent_and_in_the_published_order(drawn):
    order = ["DelayedGradients", "Subspace", "NormalisedGradients", "LowPrecision", "ReducedBatch", "ESGradients"]
    order += ["Reparametrised", "LabelNoise"]
    both = 0
    for task in drawn:
        found = [order.index(type(a).__name__) for a in unwrap(task)]
        assert found == sorted(set(found))
        both += {3, 4} <= set(found)
        assert task.name.count("__") == len(found)
    assert stats.binomtest(both, SAMPLES, 0.04).pvalue > 1e-3


def test_equal_keys_draw_equal_tasks_and_labels_are_needed_for_their_noise():
    family = AugmentedFamily("f", OneTask("q", quadratic(KEY, "q", jnp.ones(3))), Odds(label_noise=1.0))
    assert isinstance(family, TaskFamily)
    for key in jax.random.split(KEY, 10):
        first, again = family.sample(key), family.sample(key)
        assert jax.tree.structure(first) == jax.tree.structure(again) and first.name == again.name
        assert not any(isinstance(a, LabelNoise) for a in unwrap(first))
    always = replace(family, family=classifier())
    assert all(isinstance(unwrap(always.sample(key))[-1], LabelNoise) for key in jax.random.split(KEY, 5))


def test_one_augmentation_for_all_tasks():
    task = Augmented("celo", classifier(), Reparametrised).sample(KEY)
    assert (task.level, task.scale) == ("global", (1e-3, 1e3))
    assert task.name == "c__reparametrised_global_0.001_1000"
    task = Augmented("s", classifier(), partial(Subspace, directions=2)).sample(KEY)
    assert task.name == "c__subspace_projected_2"
