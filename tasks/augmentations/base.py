"""What the augmentations share: all that they leave as it is, and gradients of their own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key

from tasks.errors import InputError
from tasks.task import Batch, Task, Variables


class Augmentation:
    """A task that is `self.task` but for what a subclass changes.

    Subclasses are frozen dataclasses, pytrees, with the field `task` and static settings. Their state is that of
    the task they change or, if they keep something themselves, {"task": that, ...}. They nest in any order; each
    takes the randomness it needs from the key of the method and hands a key split from it to its task.
    """

    task: Task

    @property
    def loss_cap(self) -> float:
        """That of the task."""
        return self.task.loss_cap

    def init(self, key: Key[Array, ""]) -> Variables:
        """Those of the task."""
        return self.task.init(key)

    def batch(self, key: Key[Array, ""]) -> Batch:
        """That of the task."""
        return self.task.batch(key)

    def evaluate(self, params: Any, state: Any, split: str) -> Float[Array, ""]:
        """That of the task, without the augmentation."""
        return self.task.evaluate(params, state, split)


Gradient = Callable[[Any, Any, Any, Batch, Any, Any], tuple[tuple[Array, Any], Any]]
"""(augmentation, params, state, batch, key, more) -> ((loss, state), gradient), the gradient a tree like params."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def with_gradient(
    gradient: Gradient, augmentation: Any, params: Any, state: Any, batch: Batch, key: Key[Array, ""], more: Any
) -> tuple[Float[Array, ""], Any]:
    """The loss and next state of `augmentation.task`, with `gradient` for the derivative of the loss.

    Derivatives with respect to anything but params, and of the state, are zero. What may be traced is an argument,
    not part of a closure, so that a whole training run can be differentiated too.

    Args:
      gradient: also computes the loss and the state, the same ones; static.
      augmentation: the caller.
      params: of the task of the augmentation, like the next three.
      state: see params.
      batch: see params.
      key: see params.
      more: what else `gradient` needs: a key of its own, other weights.
    """
    del gradient, more
    return augmentation.task.loss(params, state, batch, key)


def _forward(gradient: Gradient, *arguments: Any) -> tuple[tuple[Array, Any], Any]:
    return gradient(*arguments)


def _backward(gradient: Gradient, g: Any, cotangent: tuple[Array, Any]) -> tuple[Any, ...]:
    del gradient
    return None, jax.tree.map(lambda x: (cotangent[0] * x).astype(x.dtype), g), None, None, None, None


with_gradient.defvjp(_forward, _backward)


def flatten(params: Any) -> tuple[Float[Array, " D"], Callable[[Array], Any]]:
    """All numbers of a tree as one float32 vector, and its inverse, which restores shapes and dtypes."""
    flat, restore = ravel_pytree(params)
    return flat.astype(jnp.float32), lambda x: restore(x.astype(flat.dtype))


def check_split(split: str) -> None:
    """InputError unless "train" or "valid"."""
    if split not in ("train", "valid"):
        raise InputError(f"split {split!r}: expected train or valid")
