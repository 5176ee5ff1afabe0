"""Nowcasting: every so many steps, predict where the parameters are going and jump there.

    network = nowcast.LineFit(); opt = nowcast.nowcast(optax.adam(1e-3), network, period=1000, horizons=2)
    network, theta = nowcast.read_nino("nino_mlp.pt")
    opt = nowcast.nowcast(optax.adam(1e-3), network, theta, num_steps=10_000)

Names are loaded on first use: importing the package does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learned_opt.nowcast.base import Network, horizons, scales
    from learned_opt.nowcast.chains import Residual, conv_net, mlp, residual_net
    from learned_opt.nowcast.lawa import LAWA
    from learned_opt.nowcast.line_fit import LineFit
    from learned_opt.nowcast.nino import NiNo
    from learned_opt.nowcast.published import read_nino
    from learned_opt.nowcast.transformers import transformer
    from learned_opt.nowcast.wiring import Kind, Layout, Wire, Wiring, complete, unconnected
    from learned_opt.nowcast.wnn import WNN
    from learned_opt.nowcast.wrapper import jumps_next, nowcast

_EXPORTS = {
    "transformer": "transformers",
    "residual_net": "chains",
    "mlp": "chains",
    "conv_net": "chains",
    "Residual": "chains",
    "Kind": "wiring",
    "LAWA": "lawa",
    "Layout": "wiring",
    "LineFit": "line_fit",
    "Network": "base",
    "NiNo": "nino",
    "WNN": "wnn",
    "Wire": "wiring",
    "Wiring": "wiring",
    "complete": "wiring",
    "horizons": "base",
    "jumps_next": "wrapper",
    "nowcast": "wrapper",
    "read_nino": "published",
    "scales": "base",
    "unconnected": "wiring",
}

__all__ = [
    "LAWA",
    "WNN",
    "Kind",
    "Layout",
    "LineFit",
    "Network",
    "NiNo",
    "Residual",
    "Wire",
    "Wiring",
    "complete",
    "conv_net",
    "horizons",
    "jumps_next",
    "mlp",
    "nowcast",
    "read_nino",
    "residual_net",
    "scales",
    "transformer",
    "unconnected",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"learned_opt.nowcast.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'learned_opt.nowcast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
