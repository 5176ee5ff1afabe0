"""Training in bfloat16, 8 bits of precision:

    w_0 -> bf16(w_0)        L'(w) = float32(L(w, bf16(batch)))        dL'/dw in bfloat16.

The optimizer is given bfloat16 weights and gradients, and its updates are rounded to bfloat16: there is no copy in
float32. Integers of a batch, and the state (running averages would stall), keep their types. An evaluation
converts the weights to float32 and runs on the data as they are.

Source: Metz et al. 2022 (arXiv:2211.09760), appendix on task augmentation.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.augmentations.base import Augmentation
from tasks.task import Batch, Task, Variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LowPrecision(Augmentation):
    """A task in bfloat16.

    Attributes:
      task: what is trained so.
    """

    task: Task

    @property
    def name(self) -> str:
        """`<task>__bfloat16`."""
        return f"{self.task.name}__bfloat16"

    def init(self, key: Key[Array, ""]) -> Variables:
        """Weights rounded to bfloat16; the state as the task makes it."""
        params, state = self.task.init(key)
        return Variables(_floats(params, jnp.bfloat16), state)

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """That of the task, computed from bfloat16 weights and data."""
        batch = _floats(batch, jnp.bfloat16)
        loss, after = self.task.loss(_floats(params, jnp.bfloat16), state, batch, key)
        return loss.astype(jnp.float32), jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)

    def evaluate(self, params: Any, state: Any, split: str) -> Float[Array, ""]:
        """That of the task at the same weights in float32."""
        return self.task.evaluate(_floats(params, jnp.float32), state, split)


def _floats(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
