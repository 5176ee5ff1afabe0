"""The smallest distributions: perceptrons on scikit-learn's digits."""

from functools import partial

from tasks.augmentations import Augmented, Reparametrised
from tasks.catalogue.entries import Catalogue, FamilyEntry, Library, SuiteEntry, TaskEntry
from tasks.families.image_mlp import ImageMLP, ImageMLPs
from tasks.model_task import ModelFamily, ModelTask
from tasks.task import OneTask


def _task(library: Library, name: str, widths: tuple[int, ...], activation: str) -> ModelTask:
    source = library.flat("sklearn_digits")
    return ModelTask(source, ImageMLP(widths, activation, source.classes), name)


def _wide(library: Library) -> ModelFamily:
    return ModelFamily("digits-mlp-wide", (library.flat("sklearn_digits"),), ImageMLPs())


_mlp_32 = partial(_task, name="digits_mlp_32", widths=(32,), activation="relu")
_mlp_96x96x96_tanh = partial(_task, name="digits_mlp_96x96x96_tanh", widths=(96, 96, 96), activation="tanh")

CATALOGUE = Catalogue(
    tasks={
        "digits_mlp_32": TaskEntry("8x8 digits, perceptron 64-32-10, relu, batch 128", _mlp_32),
        "digits_mlp_96x96x96_tanh": TaskEntry(
            "8x8 digits, perceptron 64-96-96-96-10, tanh, batch 128", _mlp_96x96x96_tanh
        ),
    },
    suites={
        "digits": SuiteEntry(
            "the task of digits-mlp, and one of a width, depth and activation that it never has",
            ("digits_mlp_32", "digits_mlp_96x96x96_tanh"),
        ),
    },
    families={
        "digits-mlp": FamilyEntry(
            "one task: 8x8 digits, perceptron 64-32-10, relu, batch 128, Haiku's initial scale",
            lambda library: OneTask("digits-mlp", _mlp_32(library)),
        ),
        "digits-mlp-wide": FamilyEntry(
            "8x8 digits, 1-4 hidden layers of 8-128 units, four activations, initial scale 0.3-3, batch 16-256",
            _wide,
        ),
        "digits-mlp-rescaled": FamilyEntry(
            "digits-mlp-wide, each re-parametrised globally by 0.001 to 1000",
            lambda library: Augmented("digits-mlp-rescaled", _wide(library), Reparametrised),
        ),
    },
)
