"""Tasks to judge optimizers on that no meta-training in this project has seen: see `tasks.provenance` for the rule.

Their data sets are in no training distribution. The families mlp_mixer, siren, diffusion, graph_network, pinn and
test_functions are in none either; tasks of the others are wider, deeper or longer than any that is trained on. All
are small: a step of training costs a few MFLOP, so that whole tuning budgets are affordable on two cores.
"""

import math

from tasks.catalogue.entries import Catalogue, SuiteEntry, named
from tasks.catalogue.makers import Make, equation, function, graphs, on, quadratic, text
from tasks.families.autoencoder import Autoencoder, half_loss
from tasks.families.diffusion import Diffusion
from tasks.families.graph_network import GraphNetwork
from tasks.families.image_conv import ImageConv
from tasks.families.image_mlp import ImageMLP
from tasks.families.learned_optimizer import LearnedOptimizer
from tasks.families.mlp_mixer import MLPMixer
from tasks.families.pinn import PINN
from tasks.families.resnet import ResNet
from tasks.families.rnn_lm import RNNLM
from tasks.families.siren import Siren
from tasks.families.tabular_mlp import TabularClassifier, TabularRegressor
from tasks.families.transformer_lm import TransformerLM
from tasks.families.vae import VAE
from tasks.families.vit import ViT

DATA = frozenset(
    {
        "shapes", "sklearn_photos", "python_topics", "brackets", "sklearn_breast_cancer", "sklearn_diabetes",
        "teacher_classification", "friedman", "rare_clusters", "sklearn_china_pixels", "sklearn_flower_pixels",
    }
)  # fmt: skip
"""Data sets that are kept for judging: no training distribution may read them."""

_KEY = 20261121  # of the quadratics' and test functions' random parts

_MAKERS: dict[str, tuple[str, Make]] = {
    "photos_mlp_192": (
        "8x8x3 patches of photos, perceptron of one layer of 192, relu, batch 64",
        on("sklearn_photos", lambda s: ImageMLP((192,), "relu", s.classes), 64),
    ),
    "photos_mlp_24_deep6": (
        "8x8x3 patches of photos, perceptron of six layers of 24, tanh, batch 64",
        on("sklearn_photos", lambda s: ImageMLP((24,) * 6, "tanh", s.classes), 64),
    ),
    "shapes_mlp_32_deep5": (
        "16x16x3 shapes, perceptron of five layers of 32, gelu, batch 32",
        on("shapes", lambda s: ImageMLP((32,) * 5, "gelu", s.classes)),
    ),
    "shapes_conv_deep4": (
        "16x16x3 shapes, convolutions of 6, 8, 12 and 16 channels, three of stride 2, relu, batch 16",
        on("shapes", lambda s: ImageConv((6, 8, 12, 16), 3, "none", "relu", s.classes), 16),
    ),
    "photos_conv_deep5_batch": (
        "8x8x3 patches of photos, five convolutions of 8 channels, two of stride 2, batch norm, relu, batch 16",
        on("sklearn_photos", lambda s: ImageConv((8,) * 5, 2, "batch", "relu", s.classes), 16),
    ),
    "photos_resnet_deep11_layer": (
        "8x8x3 patches of photos, residual net of 11 blocks of 4 channels, layer norm, batch 8",
        on("sklearn_photos", lambda s: ResNet((4,), (11,), 2, "layer", "relu", s.classes), 8),
    ),
    "photos_resnet_deep11_batch": (
        "8x8x3 patches of photos, residual net of 11 blocks of 4 and 6 channels, batch norm, batch 16",
        on("sklearn_photos", lambda s: ResNet((4, 6), (6, 5), 2, "batch", "relu", s.classes), 16),
    ),
    "photos_autoencoder_deep5": (
        "8x8x3 patches of photos, autoencoder 64-32-12-32-64, relu, batch 64",
        on("sklearn_photos", lambda s: Autoencoder((64, 32, 12, 32, 64), "relu", half_loss(s)), 64),
    ),
    "photos_autoencoder_144": (
        "8x8x3 patches of photos, autoencoder 144, tanh, batch 16",
        on("sklearn_photos", lambda s: Autoencoder((144,), "tanh", half_loss(s)), 16),
    ),
    "photos_vae_144": (
        "8x8x3 patches of photos, variational autoencoder, hidden layer of 144, 12 latents, silu, batch 32",
        on("sklearn_photos", lambda s: VAE((144,), 12, "silu")),
    ),
    "shapes_vit_deep9": (
        "16x16x3 shapes, vision transformer of 9 blocks of 16, 16 patches, batch 4",
        on("shapes", lambda s: ViT(4, 16, 9, 2, 2, s.classes), 4),
    ),
    "shapes_mixer": (
        "16x16x3 shapes, MLP-mixer of 2 blocks of 16, 16 patches, batch 16",
        on("shapes", lambda s: MLPMixer(4, 16, 2, 16, 32, s.classes), 16),
    ),
    "photos_mixer": (
        "8x8x3 patches of photos, MLP-mixer of 1 block of 32, 16 patches, batch 16",
        on("sklearn_photos", lambda s: MLPMixer(2, 32, 1, 32, 64, s.classes), 16),
    ),
    "topics_gru_deep2": (
        "English documentation by characters, 2 GRUs of 24, 24 tokens, batch 8",
        text("python_topics", 24, lambda s: RNNLM("gru", 24, 24, s.classes, depth=2)),
    ),
    "brackets_lstm_deep2": (
        "nested brackets, 2 LSTMs of 24, 32 tokens, batch 8",
        text("brackets", 32, lambda s: RNNLM("lstm", 24, 32, s.classes, depth=2)),
    ),
    "topics_rnn_deep2": (
        "English documentation by characters, 2 vanilla recurrent layers of 32, 16 tokens, batch 16",
        text("python_topics", 16, lambda s: RNNLM("vanilla", 32, 16, s.classes, depth=2), 16),
    ),
    "topics_transformer_long": (
        "English documentation by characters, transformer of 1 block of 16, 160 tokens, batch 2",
        text("python_topics", 160, lambda s: TransformerLM(16, 2, 1, 160, s.classes), 2),
    ),
    "topics_transformer_deep9": (
        "English documentation by characters, transformer of 9 blocks of 16, 16 tokens, batch 4",
        text("python_topics", 16, lambda s: TransformerLM(16, 2, 9, 16, s.classes), 4),
    ),
    "brackets_transformer_long": (
        "nested brackets, transformer of 1 block of 16, 144 tokens, batch 2",
        text("brackets", 144, lambda s: TransformerLM(16, 2, 1, 144, s.classes), 2),
    ),
    "breast_cancer_mlp_deep5": (
        "breast cancer, perceptron of five layers of 16, relu, batch 32",
        on("sklearn_breast_cancer", lambda s: TabularClassifier((16,) * 5, "relu", s.classes)),
    ),
    "diabetes_mlp_128": (
        "diabetes, regression by a perceptron of one layer of 128, tanh, batch 32",
        on("sklearn_diabetes", lambda s: TabularRegressor((128,), "tanh")),
    ),
    "friedman_mlp_deep4": (
        "Friedman's function, regression by a perceptron of four layers of 32, gelu, batch 64",
        on("friedman", lambda s: TabularRegressor((32,) * 4, "gelu"), 64),
    ),
    "rare_clusters_mlp_160": (
        "clusters with rare classes, perceptron of one layer of 160, relu, batch 64",
        on("rare_clusters", lambda s: TabularClassifier((160,), "relu", s.classes), 64),
    ),
    "teacher_mlp_96": (
        "classes of a random network, perceptron of layers of 96 and 48, silu, batch 64",
        on("teacher_classification", lambda s: TabularClassifier((96, 48), "silu", s.classes), 64),
    ),
    "china_siren": (
        "a photo from its coordinates, sine network of 2 layers of 32, batch 128",
        on("sklearn_china_pixels", lambda s: Siren(32, 2), 128),
    ),
    "flower_siren": (
        "a photo from its coordinates, sine network of 3 layers of 48, batch 64",
        on("sklearn_flower_pixels", lambda s: Siren(48, 3), 64),
    ),
    "photos_diffusion": (
        "8x8x3 patches of photos, diffusion model, layers of 64 and 64, cosine schedule, batch 64",
        on("sklearn_photos", lambda s: Diffusion((64, 64), "silu", "cosine"), 64),
    ),
    "friedman_diffusion": (
        "10 features, diffusion model, layers of 48 and 48, linear schedule, batch 64",
        on("friedman", lambda s: Diffusion((48, 48), "gelu", "linear"), 64),
    ),
    "communities_gin": (
        "graphs of up to 16 nodes in 3 communities, graph isomorphism network, 2 layers of 16, batch 16",
        graphs(16, 3, lambda s: GraphNetwork(16, 2, "relu", s.classes)),
    ),
    "communities_gin_deep4": (
        "graphs of up to 24 nodes in 4 communities, graph isomorphism network, 4 layers of 24, batch 16",
        graphs(24, 4, lambda s: GraphNetwork(24, 4, "gelu", s.classes)),
    ),
    "heat_pinn": (
        "heat equation, diffusivity 0.05, perceptron of 2 layers of 24, tanh, batch 64",
        equation(PINN("heat", 0.05, (24, 24), "tanh")),
    ),
    "burgers_pinn": (
        "Burgers' equation, diffusivity 0.01 / pi, perceptron of 3 layers of 24, tanh, batch 64",
        equation(PINN("burgers", 0.01 / math.pi, (24, 24, 24), "tanh")),
    ),
    "quadratic_24x24_ill": (
        "quadratic of a 24x24 array, condition 10,000, axes aligned, noise 0.1, batch 4",
        quadratic(_KEY, 24, "geometric", 1e4, False, 0.1),
    ),
    "quadratic_20x20_rotated": (
        "quadratic of a 20x20 array, eigenvalues 1 / i, rotated, noise 0.3, batch 4",
        quadratic(_KEY, 20, "power_law", 400.0, True, 0.3),
    ),
    "rosenbrock_8": (
        "Rosenbrock's function of 8 numbers, rotated, noise 0.01, batch 4",
        function(_KEY, "rosenbrock", 8, 0.01),
    ),
    "ackley_10": ("Ackley's function of 10 numbers, rotated, noise 0.02, batch 4", function(_KEY, "ackley", 10, 0.02)),
    "photos_lopt_adam_120": (
        "training Adam's rates and decays through 120 steps of a perceptron on patches of photos, batch 480",
        on("sklearn_photos", lambda s: LearnedOptimizer("adam", 0, 120, 4, 4, s.classes), 480),
    ),
}  # fmt: skip

CATALOGUE = Catalogue(
    tasks={
        name: named(name, description, make) for name, (description, make) in _MAKERS.items()
    },
    suites={
        "held-out": SuiteEntry(
            "17 families; data never trained on; families never trained on, or wider, deeper, longer", tuple(_MAKERS)
        ),
        "held-out-mini": SuiteEntry(
            "eight of held-out, quick to train",
            (
                "photos_mlp_24_deep6", "shapes_conv_deep4", "photos_vae_144", "topics_gru_deep2",
                "brackets_transformer_long", "friedman_mlp_deep4", "china_siren", "communities_gin",
            ),
        ),
    },
    families={},
)  # fmt: skip
