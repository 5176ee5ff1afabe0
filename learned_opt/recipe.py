"""What users put around a learned optimizer: clipping, a multiplier or schedule, decoupled weight decay.

    g   <- g min(1, clip_norm / ||g||)
    p   <- p + eta_t (u - weight_decay p)      u: the update of the learned optimizer; p under the mask

`eta_t = 1` is the optimizer as it was meta-trained. Celo2 and Celo2-base give steps of RMS `step_mult` = 0.001; with
`step_mult=1` eta_t is their learning rate.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from learned_opt.errors import InputError
from learned_opt.rules.base import finite

PyTree = Any


def chain(
    optimizer: optax.GradientTransformation,
    *,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: float | Float[Array, ""] = 0.0,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    clip_norm: float | Float[Array, ""] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer with these around it.

    Args:
      optimizer: `from_pretrained(...)`, `rule.transform(...)`, or any whose updates are added to the parameters.
      learning_rate: factor on the updates, a number or a schedule of the number of updates made; 1 for hands-free
        releases, whose steps are whole.
      weight_decay: share of the parameters taken off per update, times the factor.
      mask: which parameters decay: a tree of bool like them, or a function from them to one; all by default.
      clip_norm: largest global norm of the gradient.

    Example, Celo2 with a learning rate:

        learned_opt.chain(Celo2(step_mult=1.0).transform(theta), learning_rate=3e-4, weight_decay=0.1)

    Raises:
      InputError: a weight decay below 0 or a norm that is not above 0.
    """
    if isinstance(weight_decay, int | float) and not weight_decay >= 0.0:
        raise InputError(f"weight_decay is {weight_decay!r}: expected a number, at least 0")
    if isinstance(clip_norm, int | float) and not clip_norm > 0.0:
        raise InputError(f"clip_norm is {clip_norm!r}: expected a number above 0, or None")
    steps = [optimizer]
    if clip_norm is not None:
        # One entry that is not finite would make the norm, and with it every entry, not finite.
        only_finite = optax.stateless(lambda updates, params: jax.tree.map(finite, updates))
        steps = [only_finite, optax.clip_by_global_norm(clip_norm), *steps]
    if not isinstance(weight_decay, int | float) or weight_decay:
        steps.append(optax.add_decayed_weights(-weight_decay, mask))
    steps.append(optax.scale_by_learning_rate(learning_rate, flip_sign=False))
    return optax.with_extra_args_support(optax.chain(*steps))
