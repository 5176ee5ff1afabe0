"""The four tasks that Celo and Celo2 were meta-trained on (arXiv:2501.12670, arXiv:2602.19142)."""

from functools import partial

from tasks.augmentations import Augmented, Reparametrised
from tasks.catalogue.entries import Catalogue, FamilyEntry, Library, SuiteEntry, TaskEntry, with_stand_ins
from tasks.families.image_mlp import ImageMLP
from tasks.mixture import Mixture
from tasks.model_task import ModelTask
from tasks.task import OneTask

_DATA = ("mnist", "fashion_mnist", "cifar10", "svhn_cropped")
_STAND_IN = "sklearn_digits"  # 8x8 digits too, and always there


def _task(library: Library, data: str) -> ModelTask:
    source = library.small_grey(data, 8)
    return ModelTask(source, ImageMLP((32,), "relu", source.classes), f"celo_{data}", batch_size=64)


_TASKS = {
    f"celo_{data}": TaskEntry(f"{data} in 8x8 grey, perceptron 64-32-10, relu, batch 64", partial(_task, data=data))
    for data in (*_DATA, _STAND_IN)
}
_SUITE = SuiteEntry(
    "8x8 grey images and a perceptron 64-32-10, what Celo was trained on; digits stand in for svhn_cropped",
    tuple(f"celo_{data}" for data in _DATA),
    stand_ins={"celo_svhn_cropped": f"celo_{_STAND_IN}"},
)


def _family(library: Library) -> Augmented:
    four = with_stand_ins("celo-four", _SUITE, _TASKS, library)
    mixture = Mixture("celo-four", tuple(OneTask(task.name, task) for task in four), (1.0,) * len(four))
    return Augmented("celo-four", mixture, Reparametrised)


CATALOGUE = Catalogue(
    tasks=_TASKS,
    suites={"celo-four": _SUITE},
    families={
        "celo-four": FamilyEntry(
            "the suite celo-four, each re-parametrised globally by 0.001 to 1000; --tasks.samples 4 has each once",
            _family,
        ),
    },
)
