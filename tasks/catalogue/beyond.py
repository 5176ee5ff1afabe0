"""Beyond the training distribution along one axis: training for longer, and models of other sizes."""

from functools import partial

from tasks.catalogue import held_out
from tasks.catalogue.entries import Catalogue, Library, SuiteEntry, TaskEntry
from tasks.families.image_mlp import ImageMLP
from tasks.families.transformer_lm import TransformerLM
from tasks.longer import Longer
from tasks.model_task import ModelTask
from tasks.task import Task

TIMES = (5, 25)
"""Multiples of the longest horizon of meta-training, beside one."""
_TRAINED_LONGER = ("photos_mlp_24_deep6", "friedman_mlp_deep4", "communities_gin", "rosenbrock_8", "heat_pinn")

_WIDTHS = (8, 80, 800, 8000)
_TRANSFORMER_WIDTHS = (8, 32, 128)


def _longer(library: Library, name: str, times: int) -> Task:
    return Longer(held_out.CATALOGUE.tasks[name].make(library), times)


def _wide_mlp(library: Library, width: int) -> Task:
    source = library.examples("sklearn_photos")
    return ModelTask(source, ImageMLP((width,), "relu", source.classes), f"photos_mlp_width{width}", batch_size=32)


def _wide_transformer(library: Library, width: int) -> Task:
    source = library.windows("python_topics", 16)
    model = TransformerLM(width, 2, 1, 16, source.classes)
    return ModelTask(source, model, f"topics_transformer_width{width}", batch_size=8)


_LONGER = {
    f"{name}_x{times}": TaskEntry(
        f"{held_out.CATALOGUE.tasks[name].description}, for {times} times as many steps",
        partial(_longer, name=name, times=times),
    )
    for name in _TRAINED_LONGER
    for times in TIMES
}
_MLPS = {
    f"photos_mlp_width{width}": TaskEntry(
        f"8x8x3 patches of photos, perceptron of one layer of {width}, relu, batch 32", partial(_wide_mlp, width=width)
    )
    for width in _WIDTHS
}
_TRANSFORMERS = {
    f"topics_transformer_width{width}": TaskEntry(
        f"English documentation by characters, transformer of 1 block of {width}, 16 tokens, batch 8",
        partial(_wide_transformer, width=width),
    )
    for width in _TRANSFORMER_WIDTHS
}

CATALOGUE = Catalogue(
    tasks=_LONGER | _MLPS | _TRANSFORMERS,
    suites={
        "horizons": SuiteEntry(
            "the same tasks of held-out for 1, 5 and 25 times --steps, the longest horizon of meta-training",
            tuple(each for name in _TRAINED_LONGER for each in (name, *(f"{name}_x{times}" for times in TIMES))),
        ),
        "sizes": SuiteEntry(
            "a perceptron over three decades of width, and a transformer over one, on data of held-out",
            (*_MLPS, *_TRANSFORMERS),
        ),
    },
    families={},
)
