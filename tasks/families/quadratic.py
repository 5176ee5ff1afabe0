"""Noisy quadratic bowls, whose every loss, gradient and optimum is known in closed form.

An example is a vector ξ ~ N(0, σ² I), and the loss of a batch of B of them at weights x

    y = R (x - x*)        L(x) = 1 / (2 B) sum_b sum_i λ_i (y_i - ξ_bi)²        g = Rᵀ Λ (y - mean_b ξ_b)

so the gradient noise has covariance σ² Rᵀ Λ² R / B, and the mean over examples is sum_i λ_i (y_i² + σ²) / 2. The
eigenvalues λ sum to one, and x* is scaled so that sum_i λ_i (R x*)_i² = 1; then from x_0 ~ N(0, I) the loss starts at
1 + σ²/2 in the mean and can fall to σ²/2.

Sources: the noisy quadratic model of Schaul et al. 2013 (arXiv:1206.1106) and Zhang et al. 2019 (arXiv:1907.04164);
spectra that fall as a power of the index, as in the latter; rotations by QR, Mezzadri 2007 (arXiv:math-ph/0609050).
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.errors import InputError
from tasks.ranges import choice, log_uniform, log_uniform_int, power_of_two
from tasks.sources import HELD
from tasks.task import Variables

SPECTRA = ("geometric", "log_uniform", "power_law")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Quadratic:
    """A noisy quadratic of the entries of one array.

    A batch is {"noise": (B, D)}, fresh examples; a split is 2,048 fixed ones. What can be learned of one
    split holds for the other: they differ by chance, and not at all without noise.

    Attributes:
      spectrum: λ (D,), positive; `quadratic` makes them sum to one.
      optimum: R x*, (D,).
      rotation: R (D, D), orthogonal; None for the identity.
      name: see `tasks.task.Task`.
      shape: of the array, D in all.
      noise: σ.
      initial_scale: (low, high) of the deviation of x_0, log-uniform.
      batch_size: B.
    """

    spectrum: Any
    optimum: Any
    rotation: Any
    name: str = field(metadata={"static": True})
    shape: tuple[int, ...] = field(metadata={"static": True})
    noise: float = field(default=0.1, metadata={"static": True})
    initial_scale: tuple[float, float] = field(default=(1.0, 1.0), metadata={"static": True})
    batch_size: int = field(default=16, metadata={"static": True})

    @property
    def initial_loss(self) -> float:
        """1 + σ²/2, at an initial scale of one."""
        return 1 + self.noise**2 / 2

    @property
    def lowest_loss(self) -> float:
        """σ²/2, of the optimum in the mean over examples."""
        return self.noise**2 / 2

    @property
    def loss_cap(self) -> float:
        """Three times the initial loss, which few starts exceed."""
        return 3 * self.initial_loss

    @property
    def dimensions(self) -> dict[str, int]:
        """The longest axis of the array, as the width."""
        return {"width": max(self.shape, default=1)}

    def init(self, key: Key[Array, ""]) -> Variables:
        """{"quadratic": {"x": array of `shape`}}, and no state."""
        key_x, key_scale = jax.random.split(key)
        scale = log_uniform(key_scale, *self.initial_scale)
        return Variables({"quadratic": {"x": scale * jax.random.normal(key_x, self.shape)}}, {})

    def batch(self, key: Key[Array, ""]) -> dict[str, Float[Array, "B D"]]:
        """B examples."""
        return {"noise": self.noise * jax.random.normal(key, (self.batch_size, *self.spectrum.shape))}

    def loss(self, params: Any, state: Any, batch: Any, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """L(x); the key is not used."""
        del key
        x = params["quadratic"]["x"].reshape(-1)
        y = (x if self.rotation is None else self.rotation @ x) - self.optimum
        return ((y[None] - batch["noise"]) ** 2 @ self.spectrum).mean().astype(jnp.float32) / 2, state

    def evaluate(self, params: Any, state: Any, split: str) -> Float[Array, ""]:
        """L(x) of the 2,048 examples of a split."""
        noise = self.noise * held_noise(split, self.spectrum.shape[0])
        return self.loss(params, state, {"noise": noise}, jax.random.key(0))[0]


def held_noise(split: str, dimension: int) -> Float[Array, "2048 D"]:
    """The 2,048 standard normal vectors of "train" or "valid"; InputError for another split."""
    if split not in ("train", "valid"):
        raise InputError(f"split {split!r}: expected train or valid")
    return jax.random.normal(jax.random.key(("train", "valid").index(split)), (HELD, dimension))


def quadratic(
    key: Key[Array, ""],
    name: str,
    spectrum: Float[Array, " D"],
    rotation: Float[Array, "D D"] | None = None,
    shape: tuple[int, ...] | None = None,
    **settings: Any,
) -> Quadratic:
    """A quadratic with a random optimum.

    Args:
      key: of the optimum.
      name: of the task.
      spectrum: λ up to a factor.
      rotation: R, None for the identity.
      shape: of its array, default (D,).
      settings: noise, initial_scale and batch_size of `Quadratic`.
    """
    spectrum = spectrum / spectrum.sum()
    optimum = jax.random.normal(key, spectrum.shape)
    optimum = optimum / jnp.sqrt((spectrum * optimum**2).sum())
    return Quadratic(spectrum, optimum, rotation, name, shape or spectrum.shape, **settings)


def spectrum(kind: str, key: Key[Array, ""], dimension: int, condition: float) -> Float[Array, " D"]:
    """Eigenvalues of at most 1, of the given kind.

    "geometric": κ^(-i / (D - 1)), i = 0 .. D - 1. "log_uniform": κ^(-u), u uniform in [0, 1], from the key.
    "power_law": i^(-ln κ / ln D), i = 1 .. D; with κ = D, the 1 / i of Zhang et al.

    Args:
      kind: one of `SPECTRA`.
      key: used by "log_uniform" alone.
      dimension: D.
      condition: κ, the largest over the smallest eigenvalue; of "log_uniform" its bound.
    """
    if kind not in SPECTRA:
        raise InputError(f"spectrum {kind!r}: expected one of {', '.join(SPECTRA)}")
    if kind == "log_uniform":
        exponent = jax.random.uniform(key, (dimension,))
    elif kind == "geometric":
        exponent = jnp.linspace(0, 1, dimension)
    else:
        exponent = jnp.log(jnp.arange(1, dimension + 1)) / math.log(max(dimension, 2))
    return jnp.exp(-math.log(condition) * exponent)


def random_rotation(key: Key[Array, ""], dimension: int) -> Float[Array, "D D"]:
    """An orthogonal matrix, uniform: the Q of a Gaussian matrix whose R has a positive diagonal."""
    q, r = jnp.linalg.qr(jax.random.normal(key, (dimension, dimension)))
    return q * jnp.sign(jnp.diagonal(r))[None]


@dataclass(frozen=True, eq=False)
class Quadratics:
    """Quadratics of random size, spectrum and noise.

    Attributes:
      name: the prefix of its tasks' names.
      width: of each of the two axes of the array, log-uniform; D is their product.
      spectra: of `SPECTRA`, equally likely.
      condition: κ, log-uniform.
      rotations: "random" or "none", equally likely.
      noise: σ, log-uniform.
      initial_scale: drawn by `Quadratic.init`, log-uniform.
      batch_size: powers of two, equally likely.
    """

    name: str = "quadratic"
    width: tuple[int, int] = (1, 12)
    spectra: tuple[str, ...] = SPECTRA
    condition: tuple[float, float] = (1.0, 1e5)
    rotations: tuple[str, ...] = ("none", "random")
    noise: tuple[float, float] = (0.01, 1.0)
    initial_scale: tuple[float, float] = (0.3, 3.0)
    batch_size: tuple[int, int] = (1, 64)

    def sample(self, key: Key[Array, ""]) -> Quadratic:
        """Draw a task, named after its settings."""
        keys = jax.random.split(key, 10)
        shape = (log_uniform_int(keys[0], *self.width), log_uniform_int(keys[1], *self.width))
        D = math.prod(shape)
        kind, turned = choice(keys[2], self.spectra), choice(keys[3], self.rotations)
        condition, noise = float(log_uniform(keys[4], *self.condition)), float(log_uniform(keys[5], *self.noise))
        batch_size = power_of_two(keys[6], *self.batch_size)
        rotation = random_rotation(keys[7], D) if turned == "random" else None
        return quadratic(
            keys[8],
            f"{self.name}_{shape[0]}x{shape[1]}_{kind}_{condition:.6g}_{turned}_{noise:.6g}_bs{batch_size}",
            spectrum(kind, keys[9], D, condition),
            rotation,
            shape,
            noise=noise,
            initial_scale=self.initial_scale,
            batch_size=batch_size,
        )
