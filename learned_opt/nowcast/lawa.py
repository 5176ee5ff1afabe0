"""LAWA: the average of the last states. Training-free.

Kaddour: "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging", 2022
(arXiv:2209.14981). For c states x_1 … x_c of a parameter:

    y = mean_t x_t        whatever the horizon

Written as x_c + mean_t (x_t - x_c), so that states that are equal give exactly the last one. There the average is only
evaluated; here, as a baseline of nowcasting, training goes on from it. It needs no wiring.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from learned_opt.nowcast.wiring import Wiring
from learned_opt.rules.base import check_settings

PyTree = Any


@dataclass(frozen=True)
class LAWA:
    """The predictor with its settings."""

    states: int = 5
    """c, at least 1."""
    max_horizon: None = None
    """Any horizon, without effect."""

    def __post_init__(self) -> None:
        check_settings(self, integers={"states": 1}, finite=())

    def init(self, key: Array) -> tuple[()]:
        """No weights."""
        del key
        return ()

    def predict(
        self, theta: tuple[()], history: tuple[PyTree, ...], k: Int[Array, "*horizons"], graph: Wiring | None = None
    ) -> PyTree:
        """The averages; arguments as those of `learned_opt.nowcast.base.Network`."""
        del theta, graph
        lead = jnp.shape(k)

        def tensor(*x: Array) -> Array:
            last = x[-1].astype(jnp.float32)
            mean = jnp.zeros_like(last)
            for x_t in x:
                mean = mean + (x_t.astype(jnp.float32) - last) / self.states
            return jnp.broadcast_to(last + mean, (*lead, *last.shape))

        return jax.tree.map(tensor, *history)
