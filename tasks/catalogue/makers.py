"""What makes a named task: a model on data of the library, or a loss of its own."""

from collections.abc import Callable

import jax

from tasks.catalogue.entries import Library
from tasks.families import quadratic as quadratics
from tasks.families.graph_network import communities
from tasks.families.pinn import PINN, box
from tasks.families.test_functions import landscape
from tasks.model_task import Model, ModelTask
from tasks.sources import Examples, Source
from tasks.task import Task

Make = Callable[[Library, str], Task]


def on(data: str, model: Callable[[Source], Model], batch_size: int = 32) -> Make:
    """A model on the examples of a data set."""

    def make(library: Library, name: str) -> Task:
        source = library.examples(data)
        return ModelTask(source, model(source), name, batch_size=batch_size)

    return make


def text(data: str, length: int, model: Callable[[Source], Model], batch_size: int = 8) -> Make:
    """A language model on windows of a text."""

    def make(library: Library, name: str) -> Task:
        source = library.windows(data, length)
        return ModelTask(source, model(source), name, batch_size=batch_size)

    return make


def graphs(nodes: int, kinds: int, model: Callable[[Source], Model], batch_size: int = 16) -> Make:
    """A model of generated graphs of up to `nodes` nodes in `kinds` communities."""
    return lambda library, name: ModelTask(
        source := Examples(communities(nodes, kinds)), model(source), name, batch_size=batch_size
    )


def equation(model: PINN) -> Make:
    """A differential equation."""
    return lambda library, name: ModelTask(box(), model, name, batch_size=64)


def quadratic(seed: int, side: int, kind: str, condition: float, rotated: bool, noise: float) -> Make:
    """A noisy quadratic of an array of side `side`; `seed` is that of its random parts."""

    def make(library: Library, name: str) -> Task:
        keys = jax.random.split(jax.random.key(seed), 3)
        λ = quadratics.spectrum(kind, keys[0], side * side, condition)
        R = quadratics.random_rotation(keys[1], side * side) if rotated else None
        return quadratics.quadratic(keys[2], name, λ, R, (side, side), noise=noise, batch_size=4)

    return make


def function(seed: int, published: str, dimension: int, noise: float) -> Make:
    """A test function, turned and shifted; `seed` is that of its random parts."""

    def make(library: Library, name: str) -> Task:
        key_turn, key = jax.random.split(jax.random.key(seed))
        R = quadratics.random_rotation(key_turn, dimension)
        return landscape(key, name, published, dimension, R, noise=noise, batch_size=4)

    return make
