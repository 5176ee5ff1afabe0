"""Three small problems on which a first user of helm saw it lose, for the next one to win.

They are among those of `small_problems.py --unseen`. No unit of a release was found on them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from small_problems import Problem, layers, rows, tanh_net


def problems() -> dict[str, Problem]:
    """All of them."""
    return {**_curves(), **_equation()}


def _curves() -> dict[str, Problem]:
    """Sums of bumps: two vectors that start at zero and multiply, and vectors of three numbers."""
    keys = jax.random.split(jax.random.key(1237), 2)
    places = jax.random.uniform(keys[0], (300, 2), minval=-2.0, maxval=2.0)
    heights = jnp.sin(2.0 * places[:, 0]) * places[:, 1]
    grid = jnp.linspace(-5.0, 5.0, 200)

    def radial(p: Any, k: Any) -> Any:
        x, y = rows(k, places, heights)
        squares = jnp.sum((x[:, None] - p["centre"][None]) ** 2, -1)
        return jnp.mean((jnp.exp(-0.5 * squares * jnp.exp(-2.0 * p["log width"])[None]) @ p["height"] - y) ** 2)

    def peaks(p: Any) -> Any:
        z = (grid[:, None] - p["centre"][None]) / p["width"][None]
        return jnp.exp(-0.5 * z * z) @ p["height"]

    spectrum = peaks(
        {
            "centre": jnp.array([-2.0, 0.5, 2.5]),
            "width": jnp.array([0.4, 0.8, 0.3]),
            "height": jnp.array([1.0, 2.0, 0.7]),
        }
    ) + 0.01 * jax.random.normal(keys[1], (200,))

    def radial_init(k: Any) -> Any:
        centre = jax.random.uniform(k, (30, 2), minval=-2.0, maxval=2.0)
        return {"centre": centre, "log width": jnp.zeros(30), "height": jnp.zeros(30)}

    def peaks_init(k: Any) -> Any:
        centre = jnp.array([-3.0, 0.0, 3.0]) + 0.2 * jax.random.normal(k, (3,))
        return {"centre": centre, "width": jnp.ones(3), "height": jnp.ones(3)}

    return {
        "radial basis functions": Problem(radial_init, radial),
        "three peaks": Problem(peaks_init, lambda p, k: jnp.mean((peaks(p) - spectrum) ** 2)),
    }


def _equation() -> dict[str, Problem]:
    """Poisson's equation with zero at both ends, by a network."""
    inside, two_pi = jnp.linspace(0.0, 1.0, 64), np.float32(2.0 * np.pi)

    def poisson(p: Any, k: Any) -> Any:
        u = lambda x: tanh_net(p, x[None, None])[0, 0]
        bend = jax.vmap(jax.grad(jax.grad(u)))(inside)
        ends = u(jnp.float32(0.0)) ** 2 + u(jnp.float32(1.0)) ** 2
        return jnp.mean((bend + two_pi**2 * jnp.sin(two_pi * inside)) ** 2) + 100.0 * ends

    return {"poisson's equation": Problem(lambda k: layers(k, 1, 20, 20, 1), poisson)}
