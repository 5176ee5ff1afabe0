"""Celo2: the direction of Celo2-base, orthogonalised; Adam for vectors and embeddings.

Moudgil, Knyazev, Belilovsky: "Celo2: towards learned optimization free lunch", ICLR 2026 (arXiv:2602.19142). The
iteration of Newton and Schulz: Jordan et al. 2024, "Muon".

    tensors under the mask      p <- p - 20 step_mult m / sqrt(r + 1e-8)        m, r of decays 0.9 and 0.95
    all others                  o_0 as in Celo2-base (`celo2_base.py`)
      of two and more axes        Y = o_0 / (||o_0||_F + 1e-8), as many matrices of the last two axes as there are;
                                  five times:  A = Y Y^T,  Y <- a Y + (b A + c A^2) Y     (a, b, c) = `NEWTON_SCHULZ`
      of fewer                    Y = o_0
                                p <- p - step_mult Y / sqrt(1e-9 + mean(Y^2))   mean over the last two axes

It reads neither the loss nor the number of steps. Weights: 347. State: 4 floats per parameter and the factors.
Fails: on matrices that are no maps between features (embeddings belong under the mask); with a constant rate it cannot
converge. The products of the iteration have the precision of `jax_default_matmul_precision`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from learned_opt import features, fused
from learned_opt.accumulators import Accumulators
from learned_opt.errors import InputError
from learned_opt.network import Layer, PerParameterMLP
from learned_opt.recurrent import initial_mlp
from learned_opt.rules import base, celo2_base
from learned_opt.rules.celo2_base import CLIP, FEATURES, State, Theta

PyTree = Any

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def vectors_and_embeddings(params: PyTree) -> PyTree:
    """The mask by default: tensors of fewer than two axes, and those with "embed" in their name."""
    name = lambda path: jax.tree_util.keystr(path).lower()
    return jax.tree_util.tree_map_with_path(lambda path, p: jnp.ndim(p) < 2 or "embed" in name(path), params)


@dataclass(frozen=True)
class Celo2:
    """The rule with its settings; defaults are the published ones."""

    hidden: int = 8
    """Units of a hidden layer."""
    hidden_layers: int = 2
    """Hidden layers."""
    step_mult: float = 0.001
    """RMS of a step, in parameter units."""
    adam_mult: float = 20.0
    """Size of an Adam step in units of `step_mult`."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        base.check_settings(self, integers={"hidden": 1, "hidden_layers": 0}, finite=("step_mult", "adam_mult"))

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        return "celo2"

    def init(self, key: Array) -> Theta:
        """Weights before meta-training: truncated normal of standard deviation 1/sqrt(inputs), zero biases."""
        return Theta(initial_mlp(key, (features.width(FEATURES), *(self.hidden,) * self.hidden_layers, 3)))

    def expert(self, key: Array) -> Theta:
        """Weights that imitate an expert before meta-training, see `celo2_base.expert`."""
        return celo2_base.expert(self.init(key))

    def transform(
        self,
        theta: Theta,
        *,
        num_steps: int | Int[Array, ""] | None = None,
        network: PerParameterMLP = fused.apply,
        accumulator_dtype: Any = jnp.float32,
        adam_mask: PyTree | Callable[[PyTree], PyTree] = vectors_and_embeddings,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with these weights.

        Args:
          theta: weights from `init`, meta-training or a release.
          num_steps: accepted as all rules do; this rule does not read it.
          network: how the network is evaluated; `learned_opt.network.apply` is the plain reference.
          accumulator_dtype: dtype of m and r; bfloat16 halves the state.
          adam_mask: which tensors Adam steps: a tree of bool like the parameters, or a function from them to one.

        Raises:
          InputError: theta of another rule, or a number of steps below 1; from `update`, a mask that does not fit.
        """
        base.check_theta(self, theta)
        base.check_num_steps(num_steps, needed=False)

        def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, State]:
            del extra
            base.require_params(params)
            by_adam = _flags(adam_mask(params) if callable(adam_mask) else adam_mask, params)
            tensor = [self._adam if adam else self._tensor for adam in by_adam]
            steps, acc = base.map_tensors(tensor, network, theta.layers, None, updates, params, state.accumulators)
            return steps, State(acc)

        return optax.GradientTransformationExtraArgs(lambda params: celo2_base.init(params, accumulator_dtype), update)

    def _tensor(
        self, network: PerParameterMLP, layers: tuple[Layer, ...], own: None, g: Array, p: Array, acc: Accumulators
    ) -> tuple[Array, Accumulators]:
        direction, acc = celo2_base.network_direction(network, layers, g, p, acc)
        if direction.ndim >= 2:
            direction = orthogonalise(direction)
        return -self.step_mult * celo2_base.unit_rms(direction), acc

    def _adam(
        self, network: PerParameterMLP, layers: tuple[Layer, ...], own: None, g: Array, p: Array, acc: Accumulators
    ) -> tuple[Array, Accumulators]:
        acc = celo2_base.DECAYS.update(acc, jnp.clip(g, -CLIP, CLIP))
        m, r = acc.m[0].astype(jnp.float32), acc.r[0].astype(jnp.float32)
        return -self.adam_mult * self.step_mult * m * jax.lax.rsqrt(r + 1e-8), acc


def _flags(mask: PyTree, params: PyTree) -> list[bool]:
    leaves, tree = jax.tree.flatten(mask)
    if tree != jax.tree.structure(params) or not all(isinstance(x, bool | np.bool_) for x in leaves):
        given = " ".join(repr(mask).split())
        raise InputError(
            f"adam_mask is {given:.200}: expected a tree of True and False like the parameters, or a function to one"
        )
    return [bool(x) for x in leaves]


def orthogonalise(x: Float[Array, "*batch a b"]) -> Float[Array, "*batch a b"]:
    """The nearest matrices with orthonormal rows or columns, about: singular values between 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    y = jnp.swapaxes(x, -1, -2) if tall else x
    # Where all is zero the root has no derivative.
    y = y / (jnp.sqrt(jnp.sum(y * y, axis=(-2, -1), keepdims=True) + 1e-30) + 1e-8)
    for _ in range(ITERATIONS):
        gram = jnp.matmul(y, jnp.swapaxes(y, -1, -2))
        y = a * y + jnp.matmul(b * gram + c * jnp.matmul(gram, gram), y)
    return jnp.swapaxes(y, -1, -2) if tall else y
