"""Augmentations: tasks made of other tasks, that train differently but are evaluated alike."""

from tasks.augmentations.delayed_gradients import DelayedGradients
from tasks.augmentations.es_gradients import ESGradients
from tasks.augmentations.family import Augmented, AugmentedFamily, Odds
from tasks.augmentations.label_noise import LabelNoise, applicable
from tasks.augmentations.low_precision import LowPrecision
from tasks.augmentations.normalised_gradients import NormalisedGradients
from tasks.augmentations.reduced_batch import ReducedBatch
from tasks.augmentations.reparametrised import Reparametrised
from tasks.augmentations.subspace import Subspace

__all__ = [
    "Augmented",
    "AugmentedFamily",
    "DelayedGradients",
    "ESGradients",
    "LabelNoise",
    "LowPrecision",
    "NormalisedGradients",
    "Odds",
    "ReducedBatch",
    "Reparametrised",
    "Subspace",
    "applicable",
]
