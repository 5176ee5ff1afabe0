"""Test functions of global optimization, shifted, turned and scaled, with a least value of zero.

Of a published function f with domain [low, high]^d, r = (high - low) / 2, and a least value of 0 at z*:

    z(x) = z* + r R (x - x*)        L(x) = mean_b f(z(x + σ ξ_b)) / F,        ξ_b ~ N(0, I), b = 1 .. B

where R is a rotation, x* the optimum, and F the mean of f over its domain, in which z(x_0) is uniform: so x is of order
one, and the loss starts at one in the mean. Noise moves the argument; it keeps losses positive and blurs f.

Source: Surjanovic and Bingham, Virtual Library of Simulation Experiments (sfu.ca/~ssurjano/optimization.html), in its
letters; Himmelblau 1972, Applied Nonlinear Programming. Forms that are zero at z* to rounding where the published
ones cancel large numbers: sums of squares, cos a = 1 - 2 sin²(a/2), e^a - 1 by expm1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tasks.errors import InputError
from tasks.families.quadratic import held_noise, random_rotation
from tasks.ranges import choice, log_uniform, log_uniform_int, power_of_two
from tasks.task import Variables

STYBLINSKI_TANG = -2.9035340277711770
"""The lower root of 4 a³ - 32 a + 5 = 0."""


class Published(NamedTuple):
    """A function of d numbers."""

    f: Callable[[Float[Array, " d"]], Float[Array, ""]]
    low: float
    high: float
    at: tuple[float, ...]  # z*; one number stands for d equal ones
    least: int  # d must be at least that, or that if z* says so


def _rosenbrock(x: Array) -> Array:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (x[:-1] - 1) ** 2).sum()


def _rastrigin(x: Array) -> Array:
    return (x**2 + 20 * jnp.sin(jnp.pi * x) ** 2).sum()


def _ackley(x: Array) -> Array:
    square = (x**2).mean()
    away = square > 0  # f has a kink at zero, where its derivative is taken to be zero
    distance = jnp.where(away, jnp.sqrt(jnp.where(away, square, 1)), 0)
    return -20 * jnp.expm1(-0.2 * distance) - math.e * jnp.expm1(-2 * (jnp.sin(jnp.pi * x) ** 2).mean())


def _styblinski_tang(x: Array) -> Array:
    # (x⁴ - 16 x² + 5 x) / 2 less its least value: the double root a can be divided out.
    a = STYBLINSKI_TANG
    return ((x - a) ** 2 * (x**2 + 2 * a * x + 3 * a**2 - 16)).sum() / 2


def _levy(x: Array) -> Array:
    w = 1 + (x - 1) / 4
    middle = (w[:-1] - 1) ** 2 * (1 + 10 * jnp.sin(jnp.pi * w[:-1] + 1) ** 2)
    return jnp.sin(jnp.pi * w[0]) ** 2 + middle.sum() + (w[-1] - 1) ** 2 * (1 + jnp.sin(2 * jnp.pi * w[-1]) ** 2)


def _griewank(x: Array) -> Array:
    return (x**2).sum() / 4000 - jnp.cos(x / np.sqrt(np.arange(1, x.size + 1, dtype=np.float32))).prod() + 1


def _beale(x: Array) -> Array:
    a, b = x[0], x[1]
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def _himmelblau(x: Array) -> Array:
    a, b = x[0], x[1]
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


FUNCTIONS: dict[str, Published] = {
    "rosenbrock": Published(_rosenbrock, -2.048, 2.048, (1.0,), 2),
    "rastrigin": Published(_rastrigin, -5.12, 5.12, (0.0,), 1),
    "ackley": Published(_ackley, -32.768, 32.768, (0.0,), 1),
    "styblinski_tang": Published(_styblinski_tang, -5.0, 5.0, (STYBLINSKI_TANG,), 1),
    "levy": Published(_levy, -10.0, 10.0, (1.0,), 1),
    "griewank": Published(_griewank, -600.0, 600.0, (0.0,), 1),
    "beale": Published(_beale, -4.5, 4.5, (3.0, 0.5), 2),
    "himmelblau": Published(_himmelblau, -5.0, 5.0, (3.0, 2.0), 2),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Landscape:
    """A test function of one vector.

    A batch is {"noise": (B, d)}, fresh; a split is 2,048 fixed vectors ξ. Without noise the splits are equal.

    Attributes:
      optimum: x*, (d,).
      rotation: R (d, d), orthogonal; None for the identity.
      function: a key of `FUNCTIONS`.
      name: see `tasks.task.Task`.
      scale: F; `landscape` computes it.
      noise: σ.
      batch_size: B.
    """

    optimum: Any
    rotation: Any
    function: str = field(metadata={"static": True})
    name: str = field(metadata={"static": True})
    scale: float = field(metadata={"static": True})
    noise: float = field(default=0.0, metadata={"static": True})
    batch_size: int = field(default=1, metadata={"static": True})

    @property
    def initial_loss(self) -> float:
        """One, without noise."""
        return 1.0

    @property
    def lowest_loss(self) -> float:
        """Zero, without noise."""
        return 0.0

    @property
    def loss_cap(self) -> float:
        """Three times the initial loss."""
        return 3.0

    @property
    def dimensions(self) -> dict[str, int]:
        """d, as the width."""
        return {"width": self.optimum.shape[0]}

    def init(self, key: Key[Array, ""]) -> Variables:
        """{"test_function": {"x": (d,)}} with z(x) uniform in the domain, and no state."""
        f, z = FUNCTIONS[self.function], self._least()
        offset = (jax.random.uniform(key, z.shape, minval=f.low, maxval=f.high) - z) / _radius(f)
        x = self.optimum + (offset if self.rotation is None else self.rotation.T @ offset)
        return Variables({"test_function": {"x": x}}, {})

    def batch(self, key: Key[Array, ""]) -> dict[str, Float[Array, "B d"]]:
        """B vectors σ ξ."""
        return {"noise": self.noise * jax.random.normal(key, (self.batch_size, *self.optimum.shape))}

    def loss(self, params: Any, state: Any, batch: Any, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """L(x); the key is not used."""
        del key
        f, x = FUNCTIONS[self.function], params["test_function"]["x"] - self.optimum
        moved = x[None] + batch["noise"]
        turned = moved if self.rotation is None else moved @ self.rotation.T
        losses = jax.vmap(f.f)(self._least()[None] + _radius(f) * turned)
        return losses.mean().astype(jnp.float32) / self.scale, state

    def evaluate(self, params: Any, state: Any, split: str) -> Float[Array, ""]:
        """L(x) of the 2,048 vectors of a split."""
        noise = self.noise * held_noise(split, self.optimum.shape[0])
        return self.loss(params, state, {"noise": noise if self.noise else noise[:1]}, jax.random.key(0))[0]

    def _least(self) -> Float[Array, " d"]:
        return jnp.broadcast_to(jnp.array(FUNCTIONS[self.function].at), self.optimum.shape)


def _radius(f: Published) -> float:
    return (f.high - f.low) / 2


def landscape(
    key: Key[Array, ""],
    name: str,
    function: str,
    dimension: int = 2,
    rotation: Float[Array, "d d"] | None = None,
    **settings: Any,
) -> Landscape:
    """A test function with its optimum x* uniform in [-1, 1]^d.

    F is the mean over 65,536 fixed points of the domain.

    Args:
      key: of the optimum.
      name: of the task.
      function: a key of `FUNCTIONS`.
      dimension: d.
      rotation: R, None for the identity.
      settings: noise and batch_size of `Landscape`.

    Raises:
      InputError: for an unknown function, or a dimension that it doesn't have.
    """
    if function not in FUNCTIONS:
        raise InputError(f"test function {function!r}: expected one of {', '.join(FUNCTIONS)}")
    f = FUNCTIONS[function]
    if dimension < f.least or (len(f.at) > 1 and dimension != f.least):
        expected = f"{f.least} or more" if len(f.at) == 1 else f"{f.least}"
        raise InputError(f"test function {function!r} of {dimension} numbers, expected {expected}")
    points = jax.random.uniform(jax.random.key(0), (2**16, dimension), minval=f.low, maxval=f.high)
    scale = float(jax.vmap(f.f)(points).mean())
    optimum = jax.random.uniform(key, (dimension,), minval=-1.0, maxval=1.0)
    return Landscape(optimum, rotation, function, name, scale, **settings)


@dataclass(frozen=True, eq=False)
class Landscapes:
    """Test functions of random size.

    Attributes:
      name: the prefix of its tasks' names.
      functions: of `FUNCTIONS`, equally likely.
      width: d, log-uniform, from 2; functions of two numbers alone have 2.
      rotations: "random" or "none", equally likely.
      noise: σ, log-uniform.
      batch_size: powers of two, equally likely.
    """

    name: str = "test_function"
    functions: tuple[str, ...] = tuple(FUNCTIONS)
    width: tuple[int, int] = (2, 64)
    rotations: tuple[str, ...] = ("none", "random")
    noise: tuple[float, float] = (1e-3, 0.1)
    batch_size: tuple[int, int] = (1, 16)

    def sample(self, key: Key[Array, ""]) -> Landscape:
        """Draw a task, named after its settings."""
        keys = jax.random.split(key, 7)
        function, turned = choice(keys[0], self.functions), choice(keys[1], self.rotations)
        d = len(FUNCTIONS[function].at) if len(FUNCTIONS[function].at) > 1 else log_uniform_int(keys[2], *self.width)
        noise, batch_size = float(log_uniform(keys[3], *self.noise)), power_of_two(keys[4], *self.batch_size)
        name = f"{self.name}_{function}_{d}_{turned}_{noise:.6g}_bs{batch_size}"
        rotation = random_rotation(keys[5], d) if turned == "random" else None
        return landscape(keys[6], name, function, d, rotation, noise=noise, batch_size=batch_size)
