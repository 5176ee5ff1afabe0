"""`learned-opt nowcast collect`: training runs of AdamW whose states are kept.

A run is a program of its own, the same for all runs of a task, so a trajectory depends on the seed, its task and its
number, and not on when the collection was interrupted. Equal architectures are drawn once.
"""

import json
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from learned_opt.errors import InputError
from learned_opt.nowcast.wiring import named
from meta_train.evaluate.baselines import matrices
from meta_train.evaluate.contenders import baseline
from meta_train.evaluate.sweep import sweep
from meta_train.nowcast import trajectories, wirings
from meta_train.nowcast.config import CollectConfig
from meta_train.nowcast.folder import claim, read_json, write
from meta_train.progress import Reporter
from tasks import suites
from tasks.task import Task

PyTree = Any
DRAWS = 50
"""Draws from the family per wanted task, at most."""
COLLECTION = 0x636F6C6C
"""Folded into the seed: no run shares its batches with a meta-training or an evaluation of equal seed."""


def collect(config: CollectConfig, out: Path, reporter: Reporter | None = None) -> dict[str, Any]:
    """Train every task `runs` times and write `out`/TASK-RUN.safetensors and `out`/manifest.json.

    The same call again goes on where it was interrupted, and makes anew what is missing or damaged.

    Returns:
      The manifest.

    Raises:
      InputError: an unknown family, one without enough tasks of known wiring, or a folder of something else.
    """
    reporter = reporter or Reporter()
    if config.family not in suites.FAMILIES:  # said before anything is written, and without reading data
        suites.family(config.family)
    with claim(out, "trajectories", asdict(config)):
        path = out / trajectories.MANIFEST
        manifest = (
            read_json(path)
            if path.exists()
            else {"format": trajectories.FORMAT, "config": asdict(config), "tasks": [], "runs": []}
        )
        # Runs whose files are gone or damaged are made again.
        manifest["runs"] = [run for run in manifest["runs"] if run["diverged"] or trajectories.whole(out / run["file"])]
        done = {(run["task"], run["run"]) for run in manifest["runs"]}
        if len(done) == config.tasks * config.runs:
            return manifest
        key = jax.random.fold_in(jax.random.key(config.seed), COLLECTION)
        for number, task in enumerate(draw(config, key)):
            missing = [run for run in range(config.runs) if (number, run) not in done]
            if not missing:
                continue
            with reporter.task(f"task {number + 1}/{config.tasks} {task.name}: {len(missing)} runs"):
                if len(manifest["tasks"]) == number:
                    manifest["tasks"].append(_describe(task, config))
                    write(path, json.dumps(manifest) + "\n")
                rate = manifest["tasks"][number]["rate"]
                _runs(task, number, rate, missing, config, key, out, manifest)
        return manifest


def draw(config: CollectConfig, key: Array) -> list[Task]:
    """The first tasks of a family whose wiring is known, each architecture once.

    Raises:
      InputError: there are not so many among the first draws.
    """
    family = suites.family(config.family)
    found: dict[tuple[Any, ...], Task] = {}
    for n in range(config.tasks * DRAWS):
        task = family.sample(jax.random.fold_in(key, n))
        wiring = wirings.wiring_of(task)
        if wiring is not None:
            found.setdefault((wiring, task.name), task)
        if len(found) == config.tasks:
            return list(found.values())
    raise InputError(
        f"family {config.family!r} has {len(found)} tasks of known wiring among {config.tasks * DRAWS} draws, expected "
        f"{config.tasks}: ask for fewer --tasks, or take another --family such as wide-plain"
    )


def _describe(task: Task, config: CollectConfig) -> dict[str, Any]:
    wiring = wirings.wiring_of(task)
    assert wiring is not None
    params = jax.eval_shape(task.init, jax.random.key(0)).params
    return {
        "name": task.name,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "rate": tuned(task, config) if config.rate == "tuned" else 1.0,
        "wiring": wirings.to_json(wiring),
    }


def tuned(task: Task, config: CollectConfig) -> float:
    """The best of AdamW's 7 rates, by the mean training loss of the last tenth of a run."""
    adamw = baseline("adamw", 7)
    losses = sweep(task, adamw, steps=config.steps, seeds=1, seed=config.seed).losses[:, 0]
    ends = losses[:, -max(config.steps // 10, 1) :].mean(axis=1)
    return adamw.trials[int(np.argmin(np.where(np.isfinite(ends), ends, np.inf)))]["learning_rate"]


def _runs(
    task: Task,
    number: int,
    rate: float,
    missing: list[int],
    config: CollectConfig,
    key: Array,
    out: Path,
    manifest: dict[str, Any],
) -> None:
    # By name: a task keeps its runs in a larger collection.
    task_key = jax.random.fold_in(key, zlib.crc32(task.name.encode()) & 0x7FFFFFFF)
    program = jax.jit(lambda task, rate, key: trajectory(task, rate, key, config))
    for run in missing:
        rate_key, run_key = jax.random.split(jax.random.fold_in(task_key, run))
        ends = np.log(config.low), np.log(config.high)
        drawn = rate * float(np.exp(jax.random.uniform(rate_key, (), minval=ends[0], maxval=ends[1])))
        states, losses = jax.device_get(program(task, jnp.float32(drawn), run_key))
        by_name = named(states)
        diverged = not all(np.isfinite(x).all() for x in (losses, *by_name.values()))
        file = f"{number:04d}-{run:03d}.safetensors"
        if not diverged:
            trajectories.save(out / file, by_name)
        manifest["runs"].append(
            {
                "task": number,
                "run": run,
                "file": file,
                "rate": drawn,
                "diverged": diverged,
                "losses": None if diverged else [float(losses[0]), float(losses[-1])],
            }
        )
        manifest["runs"].sort(key=lambda run: (run["task"], run["run"]))
        write(out / trajectories.MANIFEST, json.dumps(manifest) + "\n")


def trajectory(task: Task, rate: Array, key: Array, config: CollectConfig) -> tuple[PyTree, Array]:
    """The states of one run, with an axis of steps // every + 1, and the mean training loss between them."""
    optimizer = optax.adamw(rate, weight_decay=config.weight_decay, mask=matrices)
    init_key, batches = jax.random.split(key)
    params, model_state = task.init(init_key)

    def step(carry: PyTree, t: Array) -> tuple[PyTree, Array]:
        params, model_state, state = carry
        batch_key, loss_key = jax.random.split(jax.random.fold_in(batches, t))
        loss = lambda p: task.loss(p, model_state, task.batch(batch_key), loss_key)
        (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), model_state, state), value

    def segment(carry: PyTree, n: Array) -> tuple[PyTree, tuple[PyTree, Array]]:
        carry, losses = jax.lax.scan(step, carry, n * config.every + jnp.arange(config.every))
        return carry, (carry[0], jnp.mean(losses))

    start = params, model_state, optimizer.init(params)
    _, (states, losses) = jax.lax.scan(segment, start, jnp.arange(config.steps // config.every))
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), params, states), losses
