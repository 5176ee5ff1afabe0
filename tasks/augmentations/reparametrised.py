"""Re-parametrisation of the weights: the same function with gradients of other sizes.

With random scales s, log-uniform, the optimizer trains w' instead of w:

    w'_0 = w_0 / s        L'(w') = L(s w')        dL'/dw' = s dL/dw

so that the best learning rate of an optimizer whose updates ignore the size of gradients falls by the factor s, and
that of gradient descent by s^2.
"Global": one s. "Tensor": one an array. "Parameter": one a number.

Source: Metz et al. 2022 (arXiv:2211.09760), appendix on task augmentation; Metz et al. 2020 (arXiv:2009.11243).
The published code draws s with the task; here `init` draws it, so that one program covers all scales.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from tasks.augmentations.base import Augmentation, check_split
from tasks.errors import InputError
from tasks.task import Batch, Task, Variables

LEVELS = ("global", "tensor", "parameter")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Reparametrised(Augmentation):
    """Weights in other units, drawn anew by each `init`.

    The state is {"task": its state, "scale": s, a tree like params of scalars or, for level "parameter", arrays}.

    Attributes:
      task: what is re-parametrised.
      level: one of `LEVELS`.
      scale: (low, high) of s.
    """

    task: Task
    level: str = field(default="global", metadata={"static": True})
    scale: tuple[float, float] = field(default=(1e-3, 1e3), metadata={"static": True})

    @property
    def name(self) -> str:
        """`<task>__reparametrised_<level>_<low>_<high>`."""
        return f"{self.task.name}__reparametrised_{self.level}_{self.scale[0]:g}_{self.scale[1]:g}"

    def init(self, key: Key[Array, ""]) -> Variables:
        """Weights w' and the state with s."""
        key_task, key_scale = jax.random.split(key)
        w, state = self.task.init(key_task)
        s = self._draw(key_scale, w)
        return Variables(jax.tree.map(lambda w, s: (w / s).astype(w.dtype), w, s), {"task": state, "scale": s})

    def loss(self, params: Any, state: Any, batch: Batch, key: Key[Array, ""]) -> tuple[Float[Array, ""], Any]:
        """L(s w')."""
        loss, inner = self.task.loss(_multiply(params, state["scale"]), state["task"], batch, key)
        return loss, {"task": inner, "scale": state["scale"]}

    def evaluate(self, params: Any, state: Any, split: str) -> Float[Array, ""]:
        """That of the task at s w'."""
        check_split(split)
        return self.task.evaluate(_multiply(params, state["scale"]), state["task"], split)

    def _draw(self, key: Key[Array, ""], w: Any) -> Any:
        arrays, tree = jax.tree.flatten(w)
        low, high = map(math.log, self.scale)
        if self.level == "global":
            s = [jnp.exp(jax.random.uniform(key, (), minval=low, maxval=high))] * len(arrays)
        elif self.level == "tensor":
            s = list(jnp.exp(jax.random.uniform(key, (len(arrays),), minval=low, maxval=high)))
        elif self.level == "parameter":
            ends = list(itertools.accumulate(a.size for a in arrays))
            draw = jnp.exp(jax.random.uniform(key, (ends[-1],), minval=low, maxval=high))
            s = [part.reshape(a.shape) for part, a in zip(jnp.split(draw, ends[:-1]), arrays, strict=True)]
        else:
            raise InputError(f"level {self.level!r} of a re-parametrisation: expected one of {', '.join(LEVELS)}")
        return jax.tree.unflatten(tree, s)


def _multiply(w: Any, s: Any) -> Any:
    # In float32, then rounded: a bfloat16 weight stays one.
    return jax.tree.map(lambda w, s: (w * s).astype(w.dtype), w, s)
