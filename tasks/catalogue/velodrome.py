"""Published fixed tasks whose data TFDS has, by their published names (arXiv:2211.09760; google/learned_optimization).

Those that train perceptrons, autoencoders and convolutional networks on MNIST, Fashion-MNIST and CIFAR-10. Left out:
dropout, norms and squared errors in perceptrons, ES gradients, the training of published learned optimizers, and
the perceptrons of 1,024 units and more.
"""

from collections.abc import Callable

from tasks.catalogue.entries import Catalogue, Library, SuiteEntry, named
from tasks.families.autoencoder import Autoencoder, half_loss
from tasks.families.image_conv import ImageConv
from tasks.families.image_mlp import ImageMLP
from tasks.model_task import ModelTask
from tasks.task import Task

Make = Callable[[Library, str], Task]


def _mlp(
    data: str, widths: tuple[int, ...], activation: str = "relu", size: int | None = None, batch: int = 128
) -> Make:
    def make(library: Library, name: str) -> ModelTask:
        source = library.flat(data) if size is None else library.resized_flat(data, size)
        return ModelTask(source, ImageMLP(widths, activation, source.classes), name, batch_size=batch)

    return make


def _autoencoder(data: str, widths: tuple[int, ...], batch: int) -> Make:
    def make(library: Library, name: str) -> ModelTask:
        source = library.flat(data)
        return ModelTask(source, Autoencoder(widths, "relu", half_loss(source)), name, batch_size=batch)

    return make


def _conv(channels: tuple[int, ...], activation: str = "relu", norm: str = "none", size: int | None = None) -> Make:
    def make(library: Library, name: str) -> ModelTask:
        source = library.examples("cifar10") if size is None else library.resized("cifar10", size)
        return ModelTask(source, ImageConv(channels, 1, norm, activation, source.classes), name)

    return make


_MAKERS: dict[str, Make] = {
    "ImageMLP_FashionMnist8_Relu32": _mlp("fashion_mnist", (32,), size=8),
    "ImageMLP_FashionMnist_Relu128x128": _mlp("fashion_mnist", (128, 128)),
    "ImageMLP_Mnist_128x128x128_Relu": _mlp("mnist", (128, 128, 128)),
    "ImageMLP_Cifar10_8_Relu32": _mlp("cifar10", (32,), size=8),
    "ImageMLP_Cifar10_128x128x128_Relu": _mlp("cifar10", (128, 128, 128)),
    "ImageMLP_Cifar10_128x128x128_Tanh_bs64": _mlp("cifar10", (128, 128, 128), "tanh", batch=64),
    "ImageMLP_Cifar10_128x128x128_Tanh_bs128": _mlp("cifar10", (128, 128, 128), "tanh"),
    "ImageMLP_Cifar10_128x128x128_Tanh_bs256": _mlp("cifar10", (128, 128, 128), "tanh", batch=256),
    "ImageMLP_Cifar10_256x256_Relu": _mlp("cifar10", (256, 256)),
    "ImageMLPAE_Mnist_128x32x128_bs128": _autoencoder("mnist", (128, 32, 128), 128),
    "ImageMLPAE_FashionMnist_128x32x128_bs128": _autoencoder("fashion_mnist", (128, 32, 128), 128),
    "ImageMLPAE_Cifar10_32x32x32_bs128": _autoencoder("cifar10", (32, 32, 32), 128),
    "ImageMLPAE_Cifar10_128x32x128_bs256": _autoencoder("cifar10", (128, 32, 128), 256),
    "ImageMLPAE_Cifar10_256x256x256_bs128": _autoencoder("cifar10", (256, 256, 256), 128),
    "ImageMLPAE_Cifar10_256x256x256_bs1024": _autoencoder("cifar10", (256, 256, 256), 1024),
    "Conv_Cifar10_16_32x64x64": _conv((32, 64, 64), size=16),
    "Conv_Cifar10_32x64x64": _conv((32, 64, 64)),
    "Conv_Cifar10_32x64x64_Tanh": _conv((32, 64, 64), "tanh"),
    "Conv_Cifar10_32x64x64_batchnorm": _conv((32, 64, 64), norm="batch"),
    "Conv_Cifar10_32x64x64_layernorm": _conv((32, 64, 64), norm="layer"),
}
"""Published name -> maker."""

CATALOGUE = Catalogue(
    tasks={
        name: named(name, "published fixed task of that name, by google/learned_optimization", make)
        for name, make in _MAKERS.items()
    },
    suites={
        "velodrome": SuiteEntry(
            "published fixed tasks on mnist, fashion_mnist and cifar10; evaluate with --velodrome-baselines to score "
            "them on the published scale",
            tuple(_MAKERS),
        ),
    },
    families={},
)
