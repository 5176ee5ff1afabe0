"""Width scaling (muP) for learned optimizers: what a step is multiplied by, tensor by tensor.

Therien, Joseph, Knyazev, Oyallon, Rish, Belilovsky: "muLO: compute-efficient meta-generalization of learned
optimizers", 2024 (arXiv:2406.00153); Yang & Hu 2021 (arXiv:2011.14522) for the scaling.

    hidden weights                   multiplier / fan-in
    input and output weights, biases 1

It goes with a model that is parametrised for it: hidden weights of variance 1/fan-in, output weights zero at the start,
logits divided by the width. The settings that weights of muLO were meta-trained with: `SmallFC(hidden=32,
step_mult=0.01)`, `VeLO(lstm_units=16, bank=8, ff_mult=1.0)`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt.errors import InputError

PyTree = Any


def width_multipliers(
    params: PyTree, is_hidden: Callable[[str, Any], bool], *, hidden_multiplier: float = 1.0
) -> PyTree:
    """The tree for the `multipliers` of `SmallFC.transform` and `VeLO.transform`.

    Args:
      params: parameters of the model.
      is_hidden: `(name, parameter) -> bool`, true for the weights between hidden layers; names are like "layer_1/w".
      hidden_multiplier: multiplier of hidden weights times their fan-in, which is their last axis but one.

    Raises:
      InputError: a hidden weight of fewer than two axes.
    """

    def multiplier(path: Any, p: Any) -> float:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not is_hidden(name, p):
            return 1.0
        if jnp.ndim(p) < 2:
            raise InputError(
                f"parameter {name!r} of shape {jnp.shape(p)} is no hidden weight: expected two or more axes"
            )
        return hidden_multiplier / jnp.shape(p)[-2]

    return jax.tree_util.tree_map_with_path(multiplier, params)
