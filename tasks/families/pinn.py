"""Physics-informed networks for the heat and the Burgers equation (Raissi et al. 2019, J. Comput. Phys. 378)."""

from collections.abc import Callable
from dataclasses import dataclass, field

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from tasks.errors import InputError
from tasks.families.layers import ACTIVATIONS
from tasks.ranges import choice, layer_widths, log_uniform
from tasks.sources import HELD, Source

Points = dict[str, Float[Array, " B"]]
"""t and x inside the box, and `initial`, places at t = 0, and `boundary`, times at x = -1 and x = 1."""
Function = Callable[[Float[Array, " B"], Float[Array, " B"]], Float[Array, " B"]]
"""u(t, x), point by point."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Box:
    """Points of the box t in [0, 1], x in [-1, 1], and of its edges: a `Source`.

    Batches are uniform; evaluations look at 2,048 points of a Halton sequence (1960) in four dimensions, the
    first for "train", those that follow for "valid".

    Attributes:
      halton: of [0, 1)^4, (2 * 2048, 4).
      name: see `Source`.
    """

    halton: Float[Array, "n 4"]
    name: str = field(default="box", metadata={"static": True})

    @property
    def classes(self) -> int:
        """InputError: there are none."""
        raise InputError(f"source {self.name!r} has no classes, expected a model of an equation")

    def batch(self, key: Key[Array, ""], batch_size: int) -> Points:
        """See `Source`."""
        return _points(jax.random.uniform(key, (batch_size, 4)))

    def held(self, split: str) -> Points:
        """See `Source`."""
        if split not in ("train", "valid"):
            raise InputError(f"split {split!r}: expected train or valid")
        return _points(self.halton[:HELD] if split == "train" else self.halton[HELD:])


def box() -> Box:
    """The box, with its Halton points."""
    index = np.arange(1, 2 * HELD + 1)
    return Box(jnp.asarray(np.stack([_radical_inverse(index, base) for base in (2, 3, 5, 7)], axis=1), jnp.float32))


def _radical_inverse(index: np.ndarray, base: int) -> np.ndarray:
    inverse, digit = np.zeros(index.shape), 1.0
    while index.any():
        digit /= base
        inverse += digit * (index % base)
        index = index // base
    return inverse


def _points(unit: Float[Array, "B 4"]) -> Points:
    t, x, initial, boundary = unit.T
    return {"t": t, "x": 2 * x - 1, "initial": 2 * initial - 1, "boundary": boundary}


EQUATIONS: dict[str, Callable[..., Array]] = {
    "heat": lambda u, u_t, u_x, u_xx, nu: u_t - nu * u_xx,
    "burgers": lambda u, u_t, u_x, u_xx, nu: u_t + u * u_x - nu * u_xx,
}
"""Residuals of equations in one dimension of space, of u, its derivatives and the diffusivity nu."""


def mismatch(u: Function, points: Points, equation: str, nu: float) -> Float[Array, ""]:
    """How far u is from the solution: mean squares of the residual, at t = 0 and at the ends.

    The solution starts as -sin(pi x) and is zero at x = -1 and x = 1. That of the heat equation is
    -exp(-nu pi^2 t) sin(pi x); that of Burgers' becomes steep at x = 0 after t = 1/pi, over a width of about nu.
    Three forward derivatives give u_t, u_x and u_xx.
    """
    t, x = points["t"], points["x"]
    one = jnp.ones_like(t)

    def in_space(x: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda x: u(t, x), (x,), (one,))

    (value, u_x), (_, u_xx) = jax.jvp(in_space, (x,), (one,))
    u_t = jax.jvp(lambda t: u(t, x), (t,), (one,))[1]
    residual = EQUATIONS[equation](value, u_t, u_x, u_xx, nu)
    start = u(0 * points["initial"], points["initial"]) + jnp.sin(np.pi * points["initial"])
    ends = u(jnp.tile(points["boundary"], 2), jnp.concatenate([-one, one]))
    return (residual**2).mean() + (start**2).mean() + (ends**2).mean()


@dataclass(frozen=True)
class PINN:
    """A perceptron (t, x) -> u that solves an equation: its loss is `mismatch`.

    Attributes:
      equation: a key of `EQUATIONS`.
      diffusivity: nu; 0.01 / pi is the published one of Burgers' equation.
      widths: of the hidden layers.
      activation: a key of `ACTIVATIONS`, twice differentiable.
    """

    equation: str
    diffusivity: float
    widths: tuple[int, ...]
    activation: str

    @property
    def initial_loss(self) -> float:
        """The mean square of the initial values, 1/2, and what the network adds: measured, less with depth."""
        return 0.5 + 0.8 * 0.55 ** len(self.widths)

    @property
    def loss_cap(self) -> float:
        """1.5 times the initial loss, as for cross entropies."""
        return 1.5 * self.initial_loss

    @property
    def dimensions(self) -> dict[str, int]:
        """The widest hidden layer, and their number."""
        return {"width": max(self.widths, default=0), "depth": len(self.widths)}

    def __call__(self, batch: Points, training: bool) -> Float[Array, ""]:
        """Of a batch of `Box`."""
        del training
        net = hk.nets.MLP((*self.widths, 1), activation=ACTIVATIONS[self.activation])
        u = lambda t, x: net(jnp.stack([t, x], axis=1))[:, 0]
        u(batch["t"], batch["x"])  # makes the weights, which must not happen inside jax.jvp; its result is not computed
        return mismatch(u, batch, self.equation, self.diffusivity)


@dataclass(frozen=True)
class PINNs:
    """Physics-informed networks of random shape.

    Attributes:
      width: of each hidden layer, drawn one by one, log-uniform.
      depth: number of hidden layers, log-uniform.
      equations: keys of `EQUATIONS`, equally likely.
      diffusivity: log-uniform.
      activations: keys of `ACTIVATIONS`, equally likely; twice differentiable.
    """

    width: tuple[int, int] = (16, 64)
    depth: tuple[int, int] = (2, 3)
    equations: tuple[str, ...] = ("heat", "burgers")
    diffusivity: tuple[float, float] = (0.01, 0.1)
    activations: tuple[str, ...] = ("tanh", "gelu", "silu")

    def draw(self, key: Key[Array, ""], source: Source) -> PINN:
        """Draw an equation and a network for it."""
        del source
        key_equation, key_nu, key_depth, key_width, key_activation = jax.random.split(key, 5)
        widths = layer_widths(key_depth, key_width, self.depth, self.width)
        nu = float(log_uniform(key_nu, *self.diffusivity))
        return PINN(choice(key_equation, self.equations), nu, widths, choice(key_activation, self.activations))
