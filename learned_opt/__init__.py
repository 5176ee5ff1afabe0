"""Learned optimizers as optax transforms.

    opt = learned_opt.from_pretrained(name_or_path, num_steps=10_000)   # an optax.GradientTransformationExtraArgs
    rule = learned_opt.SmallFC(); theta = rule.init(key); opt = rule.transform(theta)

Names are loaded on first use: importing the package does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learned_opt.pretrained import Pretrained, from_pretrained, list_pretrained, load_pretrained
    from learned_opt.published import read_published
    from learned_opt.recipe import chain
    from learned_opt.rules.celo import Celo
    from learned_opt.rules.celo2 import Celo2
    from learned_opt.rules.celo2_base import Celo2Base
    from learned_opt.rules.celo_adam import CeloAdam
    from learned_opt.rules.helm import Helm
    from learned_opt.rules.mlp import MLP
    from learned_opt.rules.nn_adam import NNAdam
    from learned_opt.rules.rnn_mlp import RNNMLP
    from learned_opt.rules.small_fc import SmallFC
    from learned_opt.rules.velo import VeLO

__version__ = "0.1.0"

_EXPORTS = {
    "Celo": "learned_opt.rules.celo",
    "Celo2": "learned_opt.rules.celo2",
    "Celo2Base": "learned_opt.rules.celo2_base",
    "CeloAdam": "learned_opt.rules.celo_adam",
    "Helm": "learned_opt.rules.helm",
    "MLP": "learned_opt.rules.mlp",
    "NNAdam": "learned_opt.rules.nn_adam",
    "Pretrained": "learned_opt.pretrained",
    "RNNMLP": "learned_opt.rules.rnn_mlp",
    "SmallFC": "learned_opt.rules.small_fc",
    "VeLO": "learned_opt.rules.velo",
    "chain": "learned_opt.recipe",
    "from_pretrained": "learned_opt.pretrained",
    "list_pretrained": "learned_opt.pretrained",
    "load_pretrained": "learned_opt.pretrained",
    "read_published": "learned_opt.published",
}

__all__ = [
    "MLP",
    "RNNMLP",
    "Celo",
    "Celo2",
    "Celo2Base",
    "CeloAdam",
    "Helm",
    "NNAdam",
    "Pretrained",
    "SmallFC",
    "VeLO",
    "chain",
    "from_pretrained",
    "list_pretrained",
    "load_pretrained",
    "read_published",
]


_MODULES = ("mup", "network", "nowcast", "rules")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"learned_opt.{name}")
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'learned_opt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
