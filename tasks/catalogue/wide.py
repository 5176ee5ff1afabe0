"""Our own training distribution: small tasks of eleven families, on embedded data, augmented as VeLO's."""

from dataclasses import replace

from tasks.augmentations import AugmentedFamily
from tasks.catalogue.entries import Catalogue, FamilyEntry, Library
from tasks.families.autoencoder import Autoencoders
from tasks.families.image_conv import ImageConvs
from tasks.families.image_mlp import ImageMLPs
from tasks.families.learned_optimizer import LearnedOptimizers
from tasks.families.quadratic import Quadratics
from tasks.families.resnet import ResNets
from tasks.families.rnn_lm import RNNLMs
from tasks.families.tabular_mlp import TabularClassifiers, TabularRegressors
from tasks.families.transformer_lm import TransformerLMs
from tasks.families.vae import VAEs
from tasks.families.vit import ViTs
from tasks.mixture import Mixture
from tasks.model_task import ModelFamily
from tasks.sources import Source

IMAGES = ("sklearn_digits", "gratings", "zipf_textures")
TEXTS = ("python_source", "delayed_copy")
TABLES = ("sklearn_wine", "sklearn_iris", "zipf_clusters")


def _sources(library: Library, length: int) -> tuple[tuple[Source, ...], ...]:
    """Images, the same as vectors, windows of so many tokens of the texts, and tables."""
    return (
        tuple(library.examples(name) for name in IMAGES),
        tuple(library.flat(name) for name in IMAGES),
        tuple(library.windows(name, length) for name in TEXTS),
        tuple(library.examples(name) for name in TABLES),
    )


def mixture(library: Library) -> Mixture:
    """The families with their odds: cheap and general ones more often."""
    images, flat, windows, tables = _sources(library, 32)
    small = (4, 32)
    members = (
        (4.0, ModelFamily("mlp", flat, ImageMLPs(width=(8, 64), depth=(1, 3)), batch_size=(8, 128))),
        (2.0, ModelFamily("conv", images, ImageConvs(), batch_size=small)),
        (1.0, ModelFamily("resnet", images, ResNets(depth=(1, 6)), batch_size=small)),
        (1.5, ModelFamily("autoencoder", flat, Autoencoders(depth=(1, 3)), batch_size=(8, 128))),
        (1.0, ModelFamily("vae", flat, VAEs(), batch_size=(8, 128))),
        (1.5, ModelFamily("vit", images, ViTs(depth=(1, 4)), batch_size=small)),
        (1.5, ModelFamily("rnn_lm", windows, RNNLMs(), batch_size=small)),
        (2.0, ModelFamily("transformer_lm", windows, TransformerLMs(depth=(1, 4)), batch_size=(4, 16))),
        (2.0, ModelFamily("tabular", tables, TabularClassifiers(), batch_size=(8, 128))),
        (1.5, ModelFamily("regression", (library.examples("teacher_regression"),), TabularRegressors())),
        (0.5, ModelFamily("lopt", flat, LearnedOptimizers(), batch_size=(64, 256))),
        (1.5, Quadratics()),
    )
    return Mixture("wide", tuple(family for _, family in members), tuple(odds for odds, _ in members))


def deep(library: Library) -> Mixture:
    """The same families without the shallow and the cheapest models, and deeper where `held-out` leaves room."""
    images, flat, windows, tables = _sources(library, 16)
    regression = (library.examples("teacher_regression"),)
    small = (4, 32)
    members = (
        (3.0, ModelFamily("mlp", flat, ImageMLPs(width=(16, 64), depth=(2, 3)), batch_size=(16, 128))),
        (2.5, ModelFamily("conv", images, ImageConvs(depth=(2, 3)), batch_size=small)),
        (1.5, ModelFamily("resnet", images, ResNets(width=(4, 8), depth=(3, 8)), batch_size=small)),
        (1.5, ModelFamily("autoencoder", flat, Autoencoders(depth=(2, 4)), batch_size=(16, 128))),
        (0.5, ModelFamily("vae", flat, VAEs(), batch_size=(16, 128))),
        (1.5, ModelFamily("vit", images, ViTs(width=(8, 24), depth=(2, 6)), batch_size=small)),
        (1.0, ModelFamily("rnn_lm", windows, RNNLMs(length=(8, 16)), batch_size=small)),
        (1.5, ModelFamily("transformer_lm", windows, TransformerLMs(depth=(2, 5), length=(8, 16)), batch_size=(4, 16))),
        (1.0, ModelFamily("tabular", tables, TabularClassifiers(depth=(2, 3)), batch_size=(8, 128))),
        (2.0, ModelFamily("regression", regression, TabularRegressors(width=(16, 64), depth=(2, 3)))),
        (1.0, Quadratics(width=(4, 16))),
    )
    return Mixture("deep", tuple(family for _, family in members), tuple(odds for odds, _ in members))


CATALOGUE = Catalogue(
    tasks={},
    suites={},
    families={
        "wide": FamilyEntry(
            "small tasks of 11 families on embedded data, initial scale 0.3-3, augmented at VeLO's odds",
            lambda library: AugmentedFamily("wide", mixture(library)),
        ),
        "wide-plain": FamilyEntry(
            "the same without augmentations", lambda library: replace(mixture(library), name="wide-plain")
        ),
        "deep": FamilyEntry(
            "the families of wide-plain without the shallow: 2 to 8 layers or blocks, up to 64 units", deep
        ),
    },
)
