"""Hand-designed optimizers, each with the middle of its grid of learning rates and two weight decays.

A baseline is a line of `_MAKERS` (and of `names.BASELINES`). Everything but rate and weight decay is the optax
default, or of the paper where the optimizer is one of `transforms`; the important part is in the description. The
schedule and the weight decay may hold traced numbers: a sweep is vmapped over them.

Weight decay is decoupled (Loshchilov, Hutter 2019, arXiv:1711.05101): p loses rate_t x decay x p per step, on arrays
of two or more axes, as biases and scales of normalisations are commonly left out. The exceptions are what optax
offers: Prodigy, D-Adaptation and MoMo decay everything, with a rate or a divisor of their own, and DoG adds it to
the gradient. The first level is the optimizer's own default, 0 or next to it; the second takes 1e-3 of the
parameters per step at the centre of the grid, which for a rate of 0.01 is the decay 0.1 common since GPT-3 (Brown
et al. 2020, arXiv:2005.14165) and found to be near the best for AdamW (Wen et al. 2025, arXiv:2509.02046), for
Lion the few times more and for SGD the few times less that their authors recommend: what matters is the
product of rate and decay (Wang, Aitchison 2024, arXiv:2405.13698).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from optax import contrib

from meta_train.evaluate.budget import Scalar, Schedule
from meta_train.evaluate.names import BASELINES
from meta_train.evaluate.transforms.cautious import cautious
from meta_train.evaluate.transforms.laprop import scale_by_laprop
from meta_train.evaluate.transforms.lookahead import lookahead, slow_params
from meta_train.evaluate.transforms.mars import scale_by_mars
from meta_train.evaluate.transforms.scalars import scalars_as_vectors
from meta_train.evaluate.transforms.soap import scale_by_soap

PyTree = Any

Maker = Callable[[Schedule, Scalar], optax.GradientTransformation]
"""(learning rate, weight decay) -> transform."""

STRONG = 1e-3
"""The second weight decay times the centre of the rates."""


def trained_params(state: PyTree, params: PyTree) -> PyTree:
    """The parameters to evaluate: those being trained."""
    del state
    return params


@dataclass(frozen=True)
class Baseline:
    """A hand-designed optimizer and how it is tuned."""

    description: str
    """One line for tables and listings."""
    make: Maker
    """(learning rate, weight decay) -> transform; it may read `value` and `obj_fn`, the loss of the batch."""
    centre: float
    """Middle of the grid of rates, 1 or 3 times a power of ten."""
    decays: tuple[float, float]
    """Weight decays: the optimizer's own, and a strong one."""
    evaluation_params: Callable[[PyTree, PyTree], PyTree] = trained_params
    """(optimizer state, trained parameters) -> the parameters whose validation and final losses count."""


def matrices(params: PyTree) -> PyTree:
    """Mask of what decays: arrays of two or more axes."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def direction(ascent: optax.GradientTransformation) -> Maker:
    """An ascent direction, with decoupled weight decay, times the rate: the form of AdamW."""
    return lambda rate, decay: optax.chain(
        ascent, optax.add_decayed_weights(decay, matrices), optax.scale_by_learning_rate(rate)
    )


def decayed(make: Callable[[Schedule], optax.GradientTransformation]) -> Maker:
    """An optimizer that scales its steps itself, with decoupled weight decay after it."""
    return lambda rate, decay: optax.chain(
        make(rate), optax.add_decayed_weights(lambda count: -rate(count) * decay, matrices)
    )


def masked(make: Callable[..., optax.GradientTransformation]) -> Maker:
    """An optimizer of optax with decoupled weight decay and a mask of its own."""
    return lambda rate, decay: make(rate, weight_decay=decay, mask=matrices)


def unmasked(make: Callable[..., optax.GradientTransformation]) -> Maker:
    """An optimizer of optax with a weight decay of its own, on all parameters."""
    return lambda rate, decay: make(rate, weight_decay=decay)


def muon(rate: Schedule) -> optax.GradientTransformation:
    """Muon with steps of the RMS of Adam's (Liu et al. 2025, arXiv:2502.16982), so that both have one rate.

    Arrays of two axes get it, all others Adam.
    """
    return contrib.muon(rate, consistent_rms=0.2)


def schedule_free_adamw(rate: Schedule, decay: Scalar) -> optax.GradientTransformation:
    """`contrib.schedule_free_adamw`, which has no mask, from its parts."""
    adam = optax.scale_by_rms(decay=0.999, eps=1e-8, eps_in_sqrt=False, bias_correction=True)
    return contrib.schedule_free(direction(adam)(rate, decay), rate, b1=0.9)


def sophia(rate: Schedule, decay: Scalar) -> optax.GradientTransformation:
    """Sophia-H; the Hessian diagonal by Hutchinson's estimate, from `obj_fn`."""
    return contrib.sophia(rate, weight_decay=decay, weight_decay_mask=matrices)


_MAKERS: dict[str, tuple[Maker, float, float]] = {
    # name: maker, centre of the rates, own weight decay
    "adabelief": (direction(optax.scale_by_belief()), 1e-2, 0.0),
    "adafactor": (decayed(optax.adafactor), 1e-1, 0.0),
    "adam": (direction(optax.scale_by_adam()), 1e-2, 0.0),
    "adamw": (masked(optax.adamw), 1e-2, 1e-4),
    "adan": (masked(optax.adan), 1e-2, 0.0),
    "ademamix": (masked(contrib.ademamix), 3e-3, 0.0),
    "adopt": (decayed(contrib.adopt), 1e-2, 0.0),
    "amsgrad": (direction(optax.scale_by_amsgrad()), 1e-2, 0.0),
    "cautious_adamw": (direction(cautious(optax.scale_by_adam())), 1e-2, 0.0),
    "dadapt_adamw": (unmasked(contrib.dadapt_adamw), 1.0, 0.0),
    "dog": (masked(contrib.dog), 1.0, 0.0),
    "lamb": (masked(optax.lamb), 1e-2, 0.0),
    "laprop": (direction(scale_by_laprop()), 1e-2, 0.0),
    "lion": (masked(optax.lion), 3e-3, 1e-3),
    "lookahead": (lambda rate, decay: lookahead(direction(optax.scale_by_adam())(rate, decay)), 1e-2, 0.0),
    "madgrad": (decayed(contrib.madgrad), 1e-2, 0.0),
    "mars": (direction(scale_by_mars()), 1e-2, 0.0),
    "momo": (unmasked(contrib.momo), 1.0, 0.0),
    "momo_adam": (unmasked(contrib.momo_adam), 1e-2, 0.0),
    "muon": (decayed(muon), 1e-2, 0.0),
    "nadamw": (masked(optax.nadamw), 1e-2, 1e-4),
    "novograd": (decayed(optax.novograd), 1e-2, 0.0),
    "prodigy": (unmasked(contrib.prodigy), 1.0, 0.0),
    "radam": (direction(optax.scale_by_radam()), 1e-2, 0.0),
    "rmsprop": (decayed(optax.rmsprop), 1e-2, 0.0),
    "schedule_free_adamw": (schedule_free_adamw, 1e-2, 0.0),
    "sgd": (direction(optax.trace(decay=0.9)), 1e-1, 0.0),
    "sm3": (direction(scalars_as_vectors(optax.scale_by_sm3())), 1e-1, 0.0),
    "soap": (direction(scale_by_soap()), 1e-2, 0.0),
    "sophia": (sophia, 1e-2, 1e-4),
    "yogi": (direction(optax.scale_by_yogi()), 1e-2, 0.0),
}

_EVALUATION_PARAMS = {
    "lookahead": slow_params,
    "schedule_free_adamw": contrib.schedule_free_eval_params,
}

_STRONG_DECAYS = {
    # Their own estimate of Adam's rate, some 0.01, multiplies the decay.
    "dadapt_adamw": 0.1,
    "prodigy": 0.1,
    # In the gradient; the decay of the DoG paper (Ivgi, Hinder, Carmon 2023, arXiv:2302.12022).
    "dog": 5e-4,
}

TABLE: dict[str, Baseline] = {
    name: Baseline(
        description,
        make=_MAKERS[name][0],
        centre=_MAKERS[name][1],
        decays=(_MAKERS[name][2], _STRONG_DECAYS.get(name, float(f"{STRONG / _MAKERS[name][1]:.2g}"))),
        evaluation_params=_EVALUATION_PARAMS.get(name, trained_params),
    )
    for name, description in BASELINES.items()
}
"""The baselines by name."""
