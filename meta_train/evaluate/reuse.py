"""Results that an evaluation takes from the archive, and what is said of those that it cannot take."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from meta_train.evaluate import archived as archiving
from meta_train.evaluate.archived import Archived, Start
from meta_train.evaluate.contenders import Contender
from meta_train.evaluate.store import Store
from meta_train.evaluate.sweep import initial_losses, initialise, seed_keys
from tasks.provenance import of_task
from tasks.task import Task, Variables

Pair = tuple[Task, Contender]


def take_archived(
    results: Store,
    missing: Sequence[Pair],
    configuration: Mapping[str, Any],
    root: Path,
    say: Callable[[str], None],
) -> list[Pair]:
    """Add what the archive has to the results.

    Args:
      results: of the evaluation.
      missing: what they do not have.
      configuration: of the evaluation.
      root: folder of the archive.
      say: told in a line what is taken of each baseline, and why a task is not.

    Returns:
      What is left to run.

    Raises:
      InputError: a file of the archive is damaged.
    """
    rest, taken = [], Counter[str]()
    names = {c.name for _, c in missing if c.kind == "baseline"}
    found = {name: there for name in sorted(names) if (there := _fitting(root, configuration, name, say))}
    start_of = cache(lambda task: start(tasks[task], configuration["seeds"], configuration["seed"]))
    tasks = {task.name: task for task, _ in missing}
    different: dict[str, dict[str, None]] = {}
    for task, contender in missing:
        there = found.get(contender.name)
        if there is None:
            rest.append((task, contender))
            continue
        fingerprint = configuration["fingerprints"][task.name]
        reason = archiving.difference(there, task.name, fingerprint, start_of(task.name))
        if reason is None:
            group = archiving.take(there, task.name, len(contender.trials), configuration["seeds"])
            results.add(group.rows, group.curves)
            taken[contender.name] += 1
        else:
            rest.append((task, contender))
            different.setdefault(reason, {})[described(task)] = None
    for name, there in found.items():
        asked = sum(c.name == name for _, c in missing)
        versions = there.content["versions"]
        made = f"jax {versions['jax']}, {versions.get('device', 'unknown device')}"
        say(f"{name}: archived results ({made}) for {taken[name]} of {asked} tasks; --rerun-baselines trains anew")
    for reason, described_tasks in different.items():
        say(f"archive: {reason}, so baselines are trained: {', '.join(described_tasks)}")
    return rest


def described(task: Task) -> str:
    """A task with its data sets, where it has any."""
    data = ", ".join(sorted(of_task(task).data))
    return f"{task.name} (data set {data})" if data else task.name


def start(task: Task, seeds: int, seed: int) -> Start:
    """What the seeds of a task start from."""
    variables, keys = initialise(task, seed_keys(task, seeds, seed))
    return Start(initial_losses(task, seeds, seed), np.asarray(_first(task, variables, keys)))


@jax.jit
def _first(task: Task, variables: Variables, keys: Key[Array, " seeds"]) -> Float[Array, " seeds"]:
    """Of each seed the training loss before the first update, as `sweep.train` records it."""

    def loss(variables: Variables, key: Key[Array, ""]) -> Float[Array, ""]:
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, 0))
        batch = task.batch(batch_key)
        return task.loss(variables.params, variables.state, batch, loss_key)[0].astype(jnp.float32)

    return jax.vmap(loss)(variables, keys)


def _fitting(root: Path, configuration: Mapping[str, Any], name: str, say: Callable[[str], None]) -> Archived | None:
    """The archived results of a baseline, if they are of this evaluation."""
    there = archiving.read(root, configuration["suite"], name)
    reason = None if there is None else archiving.mismatch(there, configuration, name)
    if reason is None:
        return there
    say(f"{name}: archived results are {reason}; running it")
    return None
