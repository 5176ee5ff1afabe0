"""Learned optimizers as optax transforms.

    opt = learned_opt.from_pretrained(name_or_path, num_steps=10_000)   # an optax.GradientTransformationExtraArgs
    rule = learned_opt.SmallFC(); theta = rule.init(key); opt = rule.transform(theta)

Names are loaded on first use: importing the package does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learned_opt.pretrained import Pretrained, from_pretrained, list_pretrained, load_pretrained
    from learned_opt.rules.small_fc import SmallFC

__version__ = "0.1.0"

_EXPORTS = {
    "Pretrained": "learned_opt.pretrained",
    "SmallFC": "learned_opt.rules.small_fc",
    "from_pretrained": "learned_opt.pretrained",
    "list_pretrained": "learned_opt.pretrained",
    "load_pretrained": "learned_opt.pretrained",
}

__all__ = ["Pretrained", "SmallFC", "from_pretrained", "list_pretrained", "load_pretrained"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'learned_opt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
