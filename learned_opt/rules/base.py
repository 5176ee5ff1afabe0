"""What every rule shares: the interface, the checks, and the walk over the tensors of a tree."""

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from learned_opt.accumulators import Accumulators
from learned_opt.errors import InputError

PyTree = Any


@runtime_checkable
class Rule(Protocol):
    """A learned-optimizer architecture: a frozen dataclass of settings, without weights."""

    @property
    def name(self) -> str:
        """Name in the registry of rules."""
        ...

    def init(self, key: Array) -> Any:
        """Weights before meta-training: a pytree of float32 arrays."""
        ...

    def transform(
        self, theta: Any, *, num_steps: int | Int[Array, ""] | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with weights `theta` for a training run of `num_steps` updates."""
        ...


def require_integer(name: str, value: Any, least: int) -> None:
    """Check a setting of a rule: a whole number, at least `least`.

    Raises:
      InputError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"setting {name} is {value!r}: expected a whole number, at least {least}")


def require_finite(name: str, value: Any) -> None:
    """Check a setting of a rule: a finite number.

    Raises:
      InputError: it is not.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"setting {name} is {value!r}: expected a finite number")


def require_params(params: PyTree) -> None:
    """Check that `update` was given the parameters.

    Raises:
      ValueError: `params` is None.
    """
    if params is None:
        raise ValueError("params is None: a learned optimizer reads the parameters, call update(grads, state, params)")


def map_tensors(
    tensor: Callable[[Array, Array, Accumulators], tuple[Array, Accumulators]],
    updates: PyTree,
    params: PyTree,
    acc: Accumulators,
) -> tuple[PyTree, Accumulators]:
    """Apply `tensor(gradient, parameter, accumulators) -> (step, accumulators)` to every tensor of a tree.

    Outside, every entry of `acc` is a tree like `params`; inside it is the array of one tensor.
    """
    tree = jax.tree.structure(params)
    if not tree.num_leaves:
        return updates, acc
    kinds = jax.tree.structure(Accumulators(*((0,) * len(field) for field in acc)))
    per_tensor = tree.flatten_up_to(jax.tree.transpose(kinds, tree, acc))
    tensors = zip(tree.flatten_up_to(updates), tree.flatten_up_to(params), per_tensor, strict=True)
    results = []
    for g, p, tensor_acc in tensors:
        if jnp.shape(g) != jnp.shape(p):
            raise ValueError(
                f"a gradient of shape {jnp.shape(g)} for a parameter of shape {jnp.shape(p)}: they must match"
            )
        results.append(tensor(jnp.asarray(g), jnp.asarray(p), tensor_acc))
    steps = tree.unflatten([step for step, _ in results])
    return steps, jax.tree.transpose(tree, kinds, tree.unflatten([new for _, new in results]))
