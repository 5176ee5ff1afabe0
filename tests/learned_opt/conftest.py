"""Weights and quick compilation for the tests of all rules."""

from collections.abc import Iterator
from typing import Any

import jax
import pytest
from rule_table import RULES, weights


@pytest.fixture(autouse=True, scope="module")
def quick_compilation() -> Iterator[None]:
    """Halves the time of a compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def thetas() -> dict[Any, Any]:
    """Weights of every rule."""
    return {rule: weights(rule) for rule in RULES.values()}


@pytest.fixture
def theta(rule: Any, thetas: dict[Any, Any]) -> Any:
    """Weights of the rule of the test."""
    return thetas[rule]
