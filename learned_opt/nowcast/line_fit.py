"""Line fit: extrapolate the least-squares line of every parameter. Training-free.

A baseline of Knyazev et al.: "Accelerating Training with Neuron Interaction and Nowcasting Networks", ICLR 2025
(arXiv:2409.04434). For c states x_1 … x_c of a parameter at equal spacings:

    slope = sum_t w_t x_t,   w_t = (t - m) / sum_s (s - m)^2,   m = (c + 1) / 2
    y_k   = mean_t x_t + slope (c + k - m)

Written as x_c + sum_t v_t (x_t - x_c), so that states that are equal give exactly the last one.

Horizons of about 2 serve best; further ones overshoot. It needs no wiring.
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
class LineFit:
    """The predictor with its settings."""

    states: int = 5
    """c, at least 2."""
    max_horizon: None = None
    """Any horizon."""

    def __post_init__(self) -> None:
        check_settings(self, integers={"states": 2}, finite=())

    def init(self, key: Array) -> tuple[()]:
        """No weights."""
        del key
        return ()

    def predict(
        self, theta: tuple[()], history: tuple[PyTree, ...], k: Int[Array, "*horizons"], graph: Wiring | None = None
    ) -> PyTree:
        """Points on the lines; arguments as those of `learned_opt.nowcast.base.Network`."""
        del theta, graph
        c = self.states
        middle = (c + 1) / 2
        offsets = [t - middle for t in range(1, c + 1)]
        w = [offset / sum(o * o for o in offsets) for offset in offsets]
        ahead = c + jnp.asarray(k, jnp.float32) - middle

        def tensor(*x: Array) -> Array:
            last = x[-1].astype(jnp.float32)
            reach = jnp.reshape(ahead, (*ahead.shape, *(1,) * last.ndim))
            mean, slope = jnp.zeros_like(last), jnp.zeros_like(last)
            for w_t, x_t in zip(w, x, strict=True):
                difference = x_t.astype(jnp.float32) - last
                mean, slope = mean + difference / c, slope + w_t * difference
            lead = (None,) * ahead.ndim
            return last[lead] + (mean[lead] + reach * slope[lead])

        return jax.tree.map(tensor, *history)
