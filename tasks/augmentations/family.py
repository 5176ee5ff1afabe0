"""Families of augmented tasks: one augmentation for all, or several at random as VeLO was trained."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
from jaxtyping import Array, Key

from tasks.augmentations.delayed_gradients import DelayedGradients
from tasks.augmentations.es_gradients import ESGradients
from tasks.augmentations.label_noise import LabelNoise, applicable
from tasks.augmentations.low_precision import LowPrecision
from tasks.augmentations.normalised_gradients import NormalisedGradients
from tasks.augmentations.reduced_batch import ReducedBatch
from tasks.augmentations.reparametrised import Reparametrised
from tasks.augmentations.subspace import Subspace
from tasks.ranges import choice, log_uniform, log_uniform_int, power_of_two
from tasks.task import Task, TaskFamily


@dataclass(frozen=True, eq=False)
class Augmented:
    """The tasks of a family, each changed alike.

    Celo's recipe (arXiv:2501.12670) is `Augmented(name, family, Reparametrised)`: globally, by 0.001 to 1000.

    Attributes:
      name: see `tasks.task.TaskFamily`.
      family: of the tasks.
      augmentation: from a task to the changed one, `functools.partial(ReducedBatch, fraction=0.5)`.
    """

    name: str
    family: TaskFamily
    augmentation: Callable[[Task], Task]

    def sample(self, key: Key[Array, ""]) -> Task:
        """A task of the family, changed."""
        return self.augmentation(self.family.sample(key))


@dataclass(frozen=True)
class Odds:
    """How likely each augmentation is, independently of the others, and the ranges of its settings.

    The defaults are those of VeLO (Metz et al. 2022, arXiv:2211.09760, and its published configuration), with three
    deviations. Label noise is added. Batches of tasks that train optimizers are reduced too. The numbers of
    directions are integers.

    Attributes:
      level: of `Reparametrised`, equally likely; "none" leaves the weights as they are.
      scales: its ranges, equally likely.
      es: probability of `ESGradients`, with pairs, powers of two, and sigma, log-uniform.
      batch: of `ReducedBatch`, with fraction, uniform.
      low_precision: of `LowPrecision`.
      normalised: of `NormalisedGradients`.
      subspace: of `Subspace`, with directions, log-uniform, and weight, equally likely.
      delayed: of `DelayedGradients`, with delay, log-uniform.
      label_noise: of `LabelNoise`, for tasks with labels, with noise, log-uniform.
    """

    level: tuple[str, ...] = ("none", "none", "global", "global", "tensor", "tensor", "parameter")
    scales: tuple[tuple[float, float], ...] = ((1e-3, 1e3), (1e-2, 1e2), (1e-1, 1e1))
    es: float = 0.08
    pairs: tuple[int, int] = (1, 16)
    sigma: tuple[float, float] = (0.001, 0.1)
    batch: float = 0.2
    fraction: tuple[float, float] = (0.01, 1.0)
    low_precision: float = 0.2
    normalised: float = 0.05
    subspace: float = 0.08
    directions: tuple[int, int] = (1, 1024)
    weight: tuple[str, ...] = ("projected", "sign")
    delayed: float = 0.05
    delay: tuple[int, int] = (1, 8)
    label_noise: float = 0.05
    noise: tuple[float, float] = (0.02, 0.5)


@dataclass(frozen=True, eq=False)
class AugmentedFamily:
    """The tasks of a family, each with none, one or several augmentations.

    In the published order, the first innermost: (label noise,) re-parametrisation, ES, batch, precision, norm,
    subspace, delay. So a perturbation is in the units of w', and the norm of a gradient in a subspace isn't one.

    Attributes:
      name: see `tasks.task.TaskFamily`.
      family: of the tasks.
      odds: of the augmentations.
    """

    name: str
    family: TaskFamily
    odds: Odds = field(default=Odds())

    def sample(self, key: Key[Array, ""]) -> Task:
        """A task of the family, augmented at random; its name tells how."""
        odds = self.odds
        key_task, *keys = jax.random.split(key, 9)
        task = self.family.sample(key_task)
        # Of each augmentation: whether, and two settings.
        whether, first, second = zip(*(jax.random.split(k, 3) for k in keys), strict=True)
        chosen = lambda i, probability: float(jax.random.uniform(whether[i])) < probability
        if chosen(0, odds.label_noise) and applicable(task):
            task = LabelNoise(task, float(log_uniform(first[0], *odds.noise)))
        if (level := choice(whether[1], odds.level)) != "none":
            scale = odds.scales[int(jax.random.randint(first[1], (), 0, len(odds.scales)))]
            task = Reparametrised(task, level, scale)
        if chosen(2, odds.es):
            task = ESGradients(task, power_of_two(first[2], *odds.pairs), float(log_uniform(second[2], *odds.sigma)))
        if chosen(3, odds.batch):
            low, high = odds.fraction
            task = ReducedBatch(task, float(jax.random.uniform(first[3], minval=low, maxval=high)))
        if chosen(4, odds.low_precision):
            task = LowPrecision(task)
        if chosen(5, odds.normalised):
            task = NormalisedGradients(task)
        if chosen(6, odds.subspace):
            task = Subspace(task, log_uniform_int(first[6], *odds.directions), choice(second[6], odds.weight))
        if chosen(7, odds.delayed):
            task = DelayedGradients(task, log_uniform_int(first[7], *odds.delay))
        return task
