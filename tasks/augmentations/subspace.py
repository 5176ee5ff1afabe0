r"""Gradients seen along k random directions only, as estimates by perturbation see them:

    g' = sum_i c(u_i . g) u_i,    u_1 .. u_k uniform on the unit sphere in R^D, fresh at each step

with c(x) = x ("projected": E[g'] = (k / D) g), or c(x) = sign(x) ("sign").

Source: Metz et al. 2022 (arXiv:2211.09760), appendix on task augmentation.

Computed from a draw of the same law that costs O(k + D), not O(k D), in time. With u_i = a_i ĝ + sqrt(1 - a_i^2) v_i,
where a_i is the cosine of the angle between a uniform direction of R^D and an axis and v_i, independent of it, is
uniform on the unit sphere of the complement of g, c_i = c(a_i |g|) and b_i = c_i sqrt(1 - a_i^2):

    g' = (sum_i c_i a_i) ĝ + sum_i b_i v_i

By symmetry the last sum is r w, with w uniform on the sphere of the complement and independent of its length r, which
grows by the law of cosines: r_i^2 = r_{i-1}^2 + b_i^2 + 2 r_{i-1} b_i t_i, with t_i such a cosine of R^(D - 1).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tasks.augmentations.base import Augmentation, flatten, with_gradient
from tasks.errors import InputError
from tasks.task import Batch, Task

WEIGHTS: dict[str, Callable[[Array], Array]] = {"projected": lambda x: x, "sign": jnp.sign}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Subspace(Augmentation):
    """The loss of a task with gradients along random directions.

    Attributes:
      task: whose gradients are seen so.
      directions: k.
      weight: c, a key of `WEIGHTS`.
    """

    task: Task
    directions: int = field(default=16, metadata={"static": True})
    weight: str = field(default="projected", metadata={"static": True})

    @property
    def name(self) -> str:
        """`<task>__subspace_<weight>_<k>`."""
        return f"{self.task.name}__subspace_{self.weight}_{self.directions}"

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """That of the task; its gradient is g'."""
        if self.weight not in WEIGHTS:
            raise InputError(f"weight {self.weight!r} of a subspace: expected one of {', '.join(WEIGHTS)}")
        key_task, key_directions = jax.random.split(key)
        return with_gradient(_gradient, self, params, state, batch, key_task, key_directions)


def _gradient(augmented: Subspace, params: Any, state: Any, batch: Batch, key: Any, more: Any) -> tuple[Any, Any]:
    key_angles, key_w = jax.random.split(more)
    value, g = jax.value_and_grad(augmented.task.loss, has_aux=True)(params, state, batch, key)
    g, restore = flatten(g)
    k, D = augmented.directions, g.size
    size = jnp.linalg.norm(g)
    direction = g / jnp.where(size > 0, size, 1)
    (a, t), (sine_a, sine_t) = angles(key_angles, (D, D - 1), k)
    c = WEIGHTS[augmented.weight](a * size)
    b = c * sine_a

    def lengthen(r: Array, bt: tuple[Array, ...]) -> tuple[Array, None]:
        b, t, sine_t = bt
        return jnp.hypot(r + b * t, b * sine_t), None  # legs of a right triangle: nothing cancels

    r, _ = jax.lax.scan(lengthen, jnp.float32(0), (b, t, sine_t))
    z = jax.random.normal(key_w, (D,))
    z = z - (z * direction).sum() * direction
    length = jnp.linalg.norm(z)
    return value, restore((c * a).sum() * direction + r * z / jnp.where(length > 0, length, 1))


def angles(
    key: Key[Array, ""], dimensions: tuple[int, ...], count: int
) -> tuple[Float[Array, "n count"], Float[Array, "n count"]]:
    """Cosines and sines of the angles between an axis of R^d and uniform directions, for each d of n dimensions.

    A cosine is z / sqrt(z² + χ²), of d - 1 degrees of freedom; in R^1, and for want of one in R^0, it is 1 or -1.
    """
    key_z, key_rest = jax.random.split(key)
    z = jax.random.normal(key_z, (len(dimensions), count))
    halves = np.maximum(np.array(dimensions, np.float32) - 1, 0)[:, None] / 2
    rest = jnp.where(halves > 0, 2 * jax.random.gamma(key_rest, np.maximum(halves, 0.5), z.shape), 0)
    return z / jnp.sqrt(z**2 + rest), jnp.sqrt(rest / (z**2 + rest))
