"""Stale gradients, as of asynchronous training:

    L'(w_t) = L(w_t),    g'_t = dL/dw at w_{max(0, t - d)}, on the batch of step t.

Source: Metz et al. 2022 (arXiv:2211.09760), appendix on task augmentation.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.augmentations.base import Augmentation, check_split, with_gradient
from tasks.task import Batch, Task, Variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DelayedGradients(Augmentation):
    """The loss of a task with gradients of d steps ago.

    The state is {"task": its state, "past": w of the last d steps, oldest first, arrays (d, ...)}.

    Attributes:
      task: whose gradients are delayed.
      delay: d >= 1.
    """

    task: Task
    delay: int = field(default=1, metadata={"static": True})

    @property
    def name(self) -> str:
        """`<task>__delayed_<d>`."""
        return f"{self.task.name}__delayed_{self.delay}"

    def init(self, key: Key[Array, ""]) -> Variables:
        """Weights, and a past in which they never changed."""
        params, state = self.task.init(key)
        past = jax.tree.map(lambda w: jnp.broadcast_to(w[None], (self.delay, *w.shape)), params)
        return Variables(params, {"task": state, "past": past})

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """That of the task at `params`; its gradient is g'."""
        # A past in float32 of weights in bfloat16 holds them exactly.
        old = jax.tree.map(lambda past, w: past[0].astype(w.dtype), state["past"], params)
        result: Any = with_gradient(_gradient, self, params, state["task"], batch, key, old)
        loss, inner = result
        # All rows move up: an index would differ between runs under vmap, and scatters are slow.
        shift = lambda past, w: jnp.concatenate([past[1:], w[None].astype(past.dtype)])
        return loss, {"task": inner, "past": jax.tree.map(shift, state["past"], params)}

    def evaluate(self, params: Any, state: Any, split: str) -> Float[Array, ""]:
        """That of the task at `params`."""
        check_split(split)
        return self.task.evaluate(params, state["task"], split)


def _gradient(
    augmented: DelayedGradients, params: Any, state: Any, batch: Batch, key: Any, old: Any
) -> tuple[Any, Any]:
    g = jax.grad(augmented.task.loss, has_aux=True)(old, state, batch, key)[0]
    return augmented.task.loss(params, state, batch, key), g
