"""From the names on the command line to the optimizers that are compared."""

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from jaxtyping import Shaped

import learned_opt
from learned_opt.errors import InputError
from meta_train.evaluate import baselines, budget

PyTree = Any


@dataclass(frozen=True)
class Contender:
    """An optimizer with the trials that its budget gives it."""

    name: str
    """As given by the user."""
    kind: Literal["learned", "baseline"]
    """Baselines are what others are compared with."""
    make: Callable[[PyTree, Mapping[str, Any], int], optax.GradientTransformation]
    """(theta, settings of one trial, steps) -> transform; theta and the settings may be traced."""
    trials: tuple[dict[str, float], ...]
    """Settings of each trial, all with the same keys; the first n are the budget n. A learned optimizer that is not
    tuned has one, without settings."""
    theta: PyTree = None
    """Weights of a learned optimizer."""
    evaluation_params: Callable[[PyTree, PyTree], PyTree] = baselines.trained_params
    """(optimizer state, trained parameters) -> the parameters whose final losses count."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Of a learned optimizer, what its maker tells; see `learned_opt.pretrained`."""

    def identity(self, steps: int) -> dict[str, Any]:
        """What results must agree on to belong to the same contender; JSON values."""
        return {
            "kind": self.kind,
            "trials": list(self.trials),
            "theta_sha256": fingerprint(self.theta),
            "program_sha256": self._program(steps),
        }

    def _program(self, steps: int) -> str:
        """SHA-256 of what the optimizer computes for a matrix and a vector: its settings, whatever they are called."""
        params = {"layer": {"w": jax.ShapeDtypeStruct((6, 4), np.float32), "b": jax.ShapeDtypeStruct((4,), np.float32)}}
        settings = {name: jax.ShapeDtypeStruct((), column.dtype) for name, column in self.columns().items()}

        def program(theta: PyTree, settings: PyTree, params: PyTree, gradient: PyTree) -> PyTree:
            optimizer = optax.with_extra_args_support(self.make(theta, settings, steps))
            loss = lambda p: optax.tree.norm(p, squared=True)
            state = optimizer.init(params)
            return optimizer.update(gradient, state, params, value=loss(params), obj_fn=loss)

        jaxpr = jax.make_jaxpr(program)(self.theta, settings, params, params)
        text = re.sub(r" at 0x[0-9a-f]+", "", str(jaxpr))  # functions print where they are
        return hashlib.sha256(text.encode()).hexdigest()

    def columns(self) -> dict[str, Shaped[np.ndarray, " trials"]]:
        """The settings of all trials, by name."""
        dtype = lambda value: np.int32 if isinstance(value, int) else np.float32
        return {
            name: np.array([trial[name] for trial in self.trials], dtype(value))
            for name, value in self.trials[0].items()
        }


def baseline(name: str, trials: int) -> Contender:
    """The baseline `name` with the first `trials` of its trials."""
    entry = baselines.TABLE[name]

    def make(theta: PyTree, settings: Mapping[str, Any], steps: int) -> optax.GradientTransformation:
        del theta
        rate = budget.scheduled(settings["learning_rate"], settings["schedule"], steps)
        return entry.make(rate, settings["weight_decay"])

    return Contender(
        name=name,
        kind="baseline",
        make=make,
        trials=budget.trials(entry.centre, entry.decays, trials),
        evaluation_params=entry.evaluation_params,
    )


def learned(name: str, rule: Any, theta: PyTree, card: Mapping[str, Any] | None = None) -> Contender:
    """The learned optimizer `rule` with weights `theta`: one trial, told how many steps there will be."""
    return Contender(
        name=name,
        kind="learned",
        make=lambda theta, settings, steps: rule.transform(theta, num_steps=steps),
        trials=({},),
        theta=theta,
        card=card or {},
    )


TUNED = "+tuned"
"""Ends the name of a learned direction that gets rates, schedules and weight decays as the baselines do."""


def tuned(name: str, rule: Any, theta: PyTree, card: Mapping[str, Any] | None, trials: int) -> Contender:
    """A learned direction with the first `trials` trials of rate, schedule and weight decay that `adam` has."""

    def make(theta: PyTree, settings: Mapping[str, Any], steps: int) -> optax.GradientTransformation:
        rate = budget.scheduled(settings["learning_rate"], settings["schedule"], steps)
        opt = rule.transform(theta, num_steps=steps)
        decay = settings["weight_decay"]
        return learned_opt.chain(opt, learning_rate=rate, weight_decay=decay, mask=baselines.matrices)

    adam = baselines.TABLE["adam"]
    return Contender(name, "learned", make, budget.trials(adam.centre, adam.decays, trials), theta, card=card or {})


def resolve(name: str, *, trials: int) -> Contender:
    """The contender that a name stands for: a baseline, else a directory of weights, else a pretrained name.

    With "+tuned" after it, a learned direction is tuned as a baseline is.

    Raises:
      InputError: there is no such thing; the message has the nearest names.
      WeightsError: the weights cannot be used.
    """
    if name in baselines.TABLE:
        return baseline(name, trials)
    released = learned_opt.list_pretrained()
    weights = name.removesuffix(TUNED)
    if Path(weights).is_dir() or weights in released:
        loaded = learned_opt.load_pretrained(weights)
        if weights != name:
            if loaded.rule.name in learned_opt.rules.READ_NUM_STEPS:
                raise InputError(
                    f"optimizers: {name!r}: {loaded.rule.name} sets its own rate and schedule, expected {weights!r}"
                )
            return tuned(name, loaded.rule, loaded.theta, loaded.card, trials)
        if loaded.takes_learning_rate:
            raise InputError(f"optimizers: {name!r} is a direction that takes a rate, expected {name + TUNED!r}")
        return learned(name, loaded.rule, loaded.theta, loaded.card)
    near = difflib.get_close_matches(name, [*baselines.TABLE, *released], n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(
        f"optimizers: {name!r} is neither a directory of weights nor a known name; {hint}"
        "see `learned-opt list optimizers`"
    )


def resolve_all(names: Sequence[str], *, trials: int) -> tuple[Contender, ...]:
    """The contenders of a comparison, in the order given.

    Raises:
      InputError: no name, a name given twice, or an unknown one.
    """
    cleaned = [name.strip().rstrip("/") for name in names if name.strip()]
    if not cleaned:
        raise InputError("optimizers: none given, expected e.g. adam,sgd; see `learned-opt list optimizers`")
    # Two spellings of one directory are one optimizer.
    spellings = [str(Path(n).resolve()) if n not in baselines.TABLE and Path(n).is_dir() else n for n in cleaned]
    twice = [n for i, n in enumerate(cleaned) if spellings[i] in spellings[:i]]
    if twice:
        raise InputError(f"optimizers: {twice[0]!r} is given twice, expected each once; remove one")
    return tuple(resolve(name, trials=trials) for name in cleaned)


def fingerprint(theta: PyTree) -> str | None:
    """SHA-256 of shapes, dtypes and values of the weights in tree order; None where there are none."""
    leaves = jax.tree.leaves(theta)
    if not leaves:
        return None
    digest = hashlib.sha256()
    for leaf in map(np.asarray, leaves):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()
