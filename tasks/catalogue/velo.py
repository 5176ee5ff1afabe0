"""The mixture of tasks that VeLO was meta-trained on (arXiv:2211.09760), with its published ranges."""

import logging

from tasks.augmentations import AugmentedFamily
from tasks.catalogue.entries import Catalogue, FamilyEntry, Library
from tasks.errors import DataUnavailable
from tasks.families.autoencoder import Autoencoders
from tasks.families.image_conv import ImageConvs
from tasks.families.image_mlp import ImageMLPs
from tasks.families.learned_optimizer import LearnedOptimizers
from tasks.families.resnet import ResNets
from tasks.families.rnn_lm import RNNLMs
from tasks.families.transformer_lm import TransformerLMs
from tasks.families.vae import VAEs
from tasks.families.vit import ViTs
from tasks.mixture import Mixture
from tasks.model_task import ModelFamily

IMAGES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped")
"""Of the published image sets, those of one size that TFDS prepares without accounts; any part of them will do."""
TEXTS = ("lm1b", "tiny_shakespeare", "python_source")
"""The first that is there is read."""
SIZES = (8, 16, 32)
"""Heights of the images; published: log-uniform from 4 to 32."""

_LOG = logging.getLogger(__name__)


def _mixture(library: Library) -> AugmentedFamily:
    there = tuple(name for name in IMAGES if library.has(name))
    if not there:
        raise DataUnavailable(
            f"velo-mixture: none of {', '.join(IMAGES)} is prepared: run `learned-opt tasks prepare {IMAGES[0]}`, or "
            f"`learned-opt tasks import ARRAYS.npz --name {IMAGES[0]}`"
        )
    text = next(name for name in TEXTS if library.has(name))
    if there != IMAGES or text != TEXTS[0]:
        found, published = ", ".join(there), ", ".join(IMAGES)
        _LOG.warning("velo-mixture: trains on %s and %s, of %s and %s", found, text, published, TEXTS[0])
    images = tuple(library.resized(name, size) for name in there for size in SIZES)
    flat = tuple(library.resized_flat(name, size) for name in there for size in SIZES)
    windows = (library.windows(text, 128),)
    batches = (4, 512)
    family = lambda name, sources, space, batch_size=batches: ModelFamily(
        name, sources, space, initial_scale=(1.0, 1.0), batch_size=batch_size
    )
    families = (
        family("mlp", flat, ImageMLPs(width=(8, 128), depth=(1, 4))),
        family("conv", images, ImageConvs(width=(4, 64), depth=(1, 3), strided=(0, 2))),
        family("autoencoder", flat, Autoencoders(width=(8, 128), depth=(1, 4))),
        family("vae", flat, VAEs(width=(4, 128), depth=(1, 4), latents=(2, 128))),
        family("vit", images, ViTs(width=(8, 128), depth=(1, 8), heads=(1, 16), grid=(2, 8)), (4, 128)),
        family("rnn_lm", windows, RNNLMs(width=(8, 256), length=(4, 128)), (4, 128)),
        family("transformer_lm", windows, TransformerLMs((8, 128), (1, 8), (4, 128), (1, 8)), (4, 128)),
        family("resnet", images, ResNets(width=(8, 256), depth=(1, 10)), (4, 256)),
        family("lopt", flat, LearnedOptimizers(width=(2, 512), length=(1, 100)), (4, 512)),
    )
    return AugmentedFamily("velo-mixture", Mixture("velo-mixture", families, (1.0,) * len(families)))


CATALOGUE = Catalogue(
    tasks={},
    suites={},
    families={
        "velo-mixture": FamilyEntry(
            "nine families equally likely, with VeLO's ranges and augmentations; no filter by run time, so sequences "
            "end at 128 tokens and transformers at 8 blocks of 128; needs stock image sets",
            _mixture,
        ),
    },
)
