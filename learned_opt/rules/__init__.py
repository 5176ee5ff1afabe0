"""Architectures of learned optimizers, one file each, and the registry of their names. Importing it loads no JAX."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from learned_opt.errors import InputError

if TYPE_CHECKING:
    from learned_opt.rules.base import Rule

RULES = {
    "celo": ("learned_opt.rules.celo", "Celo"),
    "celo2": ("learned_opt.rules.celo2", "Celo2"),
    "celo2_base": ("learned_opt.rules.celo2_base", "Celo2Base"),
    "celo_adam": ("learned_opt.rules.celo_adam", "CeloAdam"),
    "helm": ("learned_opt.rules.helm", "Helm"),
    "mlp": ("learned_opt.rules.mlp", "MLP"),
    "nn_adam": ("learned_opt.rules.nn_adam", "NNAdam"),
    "rnn_mlp": ("learned_opt.rules.rnn_mlp", "RNNMLP"),
    "small_fc": ("learned_opt.rules.small_fc", "SmallFC"),
    "velo": ("learned_opt.rules.velo", "VeLO"),
}
"""Name of a rule -> module and class."""

READ_NUM_STEPS = frozenset({"celo", "celo_adam", "helm", "velo"})
"""Rules that need to know how long training will be."""


def rule_names() -> list[str]:
    """Names of all rules."""
    return sorted(RULES)


def make_rule(name: str, settings: Mapping[str, Any] | None = None) -> Rule:
    """The rule of that name with the given settings, defaults for the others.

    Raises:
      InputError: unknown name, a setting that the rule does not have, or a value that does not fit.
    """
    if name not in RULES:
        near = difflib.get_close_matches(name, RULES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(rule_names())}"
        raise InputError(f"unknown rule {name!r}: {hint}")
    module, cls = RULES[name]
    rule = getattr(importlib.import_module(module), cls)
    known = [field.name for field in dataclasses.fields(rule)]
    for setting in settings or {}:
        if setting not in known:
            near = difflib.get_close_matches(setting, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            raise InputError(f"rule {name!r} has no setting {setting!r}: {hint}")
    return rule(**(settings or {}))
