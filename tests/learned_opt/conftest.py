"""Weights for the tests of all rules."""

from typing import Any

import pytest
from rule_table import RULES, weights


@pytest.fixture(scope="session")
def thetas() -> dict[Any, Any]:
    """Weights of every rule."""
    return {rule: weights(rule) for rule in RULES.values()}


@pytest.fixture
def theta(rule: Any, thetas: dict[Any, Any]) -> Any:
    """Weights of the rule of the test."""
    return thetas[rule]
