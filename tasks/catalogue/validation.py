"""Tasks to choose between weights by: what comes out of meta-training is compared here, never on `held-out`.

They read the data of training, or none, but in models that no distribution of `wide` or `deep` draws: families that are
never trained on, or wider or deeper ones (`velo-mixture` reaches two of them). None is a task of `held-out`, and none
shares data with it.
"""

from tasks.catalogue.entries import Catalogue, SuiteEntry, named
from tasks.catalogue.makers import Make, equation, function, graphs, on, quadratic, text
from tasks.families.autoencoder import Autoencoder, half_loss
from tasks.families.diffusion import Diffusion
from tasks.families.graph_network import GraphNetwork
from tasks.families.image_conv import ImageConv
from tasks.families.image_mlp import ImageMLP
from tasks.families.mlp_mixer import MLPMixer
from tasks.families.pinn import PINN
from tasks.families.resnet import ResNet
from tasks.families.rnn_lm import RNNLM
from tasks.families.tabular_mlp import TabularRegressor
from tasks.families.transformer_lm import TransformerLM
from tasks.families.vit import ViT

_SEED = 20261122  # of random parts

_MAKERS: dict[str, tuple[str, Make]] = {
    "digits_mlp_40_deep5": (
        "8x8 digits, perceptron of five layers of 40, tanh, batch 32",
        on("sklearn_digits", lambda s: ImageMLP((40,) * 5, "tanh", s.classes)),
    ),
    "textures_mlp_160": (
        "textures, perceptron of one layer of 160, relu, batch 64",
        on("zipf_textures", lambda s: ImageMLP((160,), "relu", s.classes), 64),
    ),
    "gratings_conv_deep5": (
        "gratings, five convolutions of 8 channels, three of stride 2, layer norm, relu, batch 16",
        on("gratings", lambda s: ImageConv((8,) * 5, 3, "layer", "relu", s.classes), 16),
    ),
    "digits_resnet_deep9": (
        "8x8 digits, residual net of 9 blocks of 4 channels, batch norm, batch 16",
        on("sklearn_digits", lambda s: ResNet((4,), (9,), 2, "batch", "relu", s.classes), 16),
    ),
    "gratings_autoencoder_deep5": (
        "gratings, autoencoder 48-24-12-24-48, tanh, batch 32",
        on("gratings", lambda s: Autoencoder((48, 24, 12, 24, 48), "tanh", half_loss(s))),
    ),
    "digits_vit_deep7": (
        "8x8 digits, vision transformer of 7 blocks of 16, 16 patches, batch 8",
        on("sklearn_digits", lambda s: ViT(2, 16, 7, 2, 2, s.classes), 8),
    ),
    "textures_mixer": (
        "textures, MLP-mixer of 2 blocks of 12, 16 patches, batch 16",
        on("zipf_textures", lambda s: MLPMixer(4, 12, 2, 12, 24, s.classes), 16),
    ),
    "source_transformer_deep6": (
        "Python source by characters, transformer of 6 blocks of 16, 16 tokens, batch 4",
        text("python_source", 16, lambda s: TransformerLM(16, 2, 6, 16, s.classes), 4),
    ),
    "copy_gru_deep2": (
        "copying over a delay, 2 GRUs of 24, 24 tokens, batch 8",
        text("delayed_copy", 24, lambda s: RNNLM("gru", 24, 24, s.classes, depth=2)),
    ),
    "teacher_regression_mlp_deep5": (
        "a random network's output, regression by a perceptron of five layers of 32, gelu, batch 32",
        on("teacher_regression", lambda s: TabularRegressor((32,) * 5, "gelu")),
    ),
    "digits_diffusion": (
        "8x8 digits, diffusion model, layers of 48 and 48, linear schedule, batch 64",
        on("sklearn_digits", lambda s: Diffusion((48, 48), "gelu", "linear"), 64),
    ),
    "communities_gin_deep3": (
        "graphs of up to 12 nodes in 2 communities, graph isomorphism network, 3 layers of 12, batch 8",
        graphs(12, 2, lambda s: GraphNetwork(12, 3, "relu", s.classes), 8),
    ),
    "wide_heat_pinn": (
        "heat equation, diffusivity 0.2, perceptron of 3 layers of 16, tanh, batch 64",
        equation(PINN("heat", 0.2, (16, 16, 16), "tanh")),
    ),
    "quadratic_40x40": (
        "quadratic of a 40x40 array, condition 1,000, axes aligned, noise 0.2, batch 4",
        quadratic(_SEED, 40, "geometric", 1e3, False, 0.2),
    ),
    "levy_12": ("Levy's function of 12 numbers, rotated, noise 0.02, batch 4", function(_SEED, "levy", 12, 0.02)),
}

CATALOGUE = Catalogue(
    tasks={name: named(name, description, make) for name, (description, make) in _MAKERS.items()},
    suites={
        "validation": SuiteEntry(
            "models that wide and deep never draw, on their data: to choose between weights before held-out is touched",
            tuple(_MAKERS),
        )
    },
    families={},
)
