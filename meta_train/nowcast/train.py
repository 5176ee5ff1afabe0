"""`learned-opt nowcast train`: a network learns to predict the states of trajectories.

    loss = mean over windows, horizons k and parameters of |y_k - x_k| / (sd + 1e-6)

with sd of the tensor over its entries in the five states of the window, k over all that the run goes on for; AdamW.
Every step has windows of a few tasks; the gradient of each is a program of its own, compiled when its task first comes.
What a step draws depends on the seed and its number, so a resumed run goes on as if never stopped.

    config.json  metrics.jsonl  checkpoints/       of the run
    weights.safetensors  card.json                 the result, see `learned_opt.nowcast.released`
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from learned_opt.errors import InputError
from learned_opt.nowcast import WNN, NiNo, Wiring, released
from learned_opt.nowcast.base import EPSILON, Network, scales
from meta_train import signals
from meta_train.checkpointing import Checkpoints
from meta_train.errors import RunFailed
from meta_train.nowcast import windows
from meta_train.nowcast.config import TrainConfig
from meta_train.nowcast.folder import claim, write
from meta_train.nowcast.trajectories import Collection, open_collection
from meta_train.nowcast.windows import Windows
from meta_train.progress import Reporter
from meta_train.run_directory import git_revision

PyTree = Any
NETWORKS = {"wnn": WNN, "nino": NiNo}
TRAINING = 0x6E6F7763
VALIDATION = 0x76616C69
"""Folded into the seed."""
METRICS = "metrics.jsonl"
FAILURES = 100
"""Steps in a row without a finite gradient before the run gives up."""


class State(NamedTuple):
    """All that changes."""

    theta: PyTree
    optimizer: PyTree


class Outcome(NamedTuple):
    """How a call ended."""

    step: int
    signal: int | None
    """That stopped it."""
    results: dict[str, Any] | None
    """Of a finished run."""


def train(config: TrainConfig, data: Path, out: Path, reporter: Reporter | None = None) -> Outcome:
    """Train a network, or go on; writes the release when all steps are done.

    Args:
      config: of the run.
      data: folder of trajectories.
      out: run directory.
      reporter: of progress.

    Raises:
      InputError: trajectories that do not fit, bad settings, or a folder of something else.
      RunFailed: the loss is not finite, or a checkpoint cannot be written.
    """
    reporter = reporter or Reporter()
    network = make_network(config)
    collection = open_collection(data)
    windows.check(collection, _shape(network, config))
    begun = {"config": asdict(config), "data": collection.manifest["config"]}
    with claim(out, "nowcasting network", begun), signals.stop_on_signals() as request:
        (out / "checkpoints").mkdir(exist_ok=True)
        with Checkpoints(out / "checkpoints", keep=2) as checkpoints:
            return _run(config, network, collection, out, checkpoints, reporter, request)


def make_network(config: TrainConfig) -> Any:
    """The network of a configuration.

    Raises:
      InputError: a setting that it does not have.
    """
    try:
        return NETWORKS[config.network](**config.settings)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise InputError(
            f"settings {config.settings} of network {config.network!r}: {error}; expected hidden"
        ) from error


def _run(
    config: TrainConfig,
    network: Any,
    collection: Collection,
    out: Path,
    checkpoints: Checkpoints,
    reporter: Reporter,
    request: signals.StopRequest,
) -> Outcome:
    key = jax.random.fold_in(jax.random.key(config.seed), TRAINING)
    optimizer = optimizer_of(config)
    theta = network.init(jax.random.fold_in(key, 0))
    state, begin = State(theta, optimizer.init(theta)), 0
    if found := checkpoints.newest(state, reporter.note):
        state, begin = found
    _forget_after(out / METRICS, begin)
    update = jax.jit(lambda state, grads: _update(optimizer, state, grads))
    programs = [gradient_program(network, task.wiring, config.dtype) for task in collection.tasks]
    shape, start = _shape(network, config), time.monotonic()
    losses, last = list[Array](), begin
    for step in range(begin, config.steps):
        rng = windows.generator(jax.random.fold_in(key, step + 1))
        picked = rng.choice(len(programs), min(config.tasks_per_step, len(programs)), replace=False)
        values, grads = list[Array](), list[PyTree]()
        for n in picked:
            task = collection.tasks[n]
            batch = windows.sample(task.training, config.windows, collection.states, shape, rng)
            value, grad = programs[n](state.theta, batch)
            values.append(value)
            grads.append(grad)
        state = update(state, jax.tree.map(lambda *g: sum(g) / len(g), *grads))
        losses.append(jnp.mean(jnp.stack(values)))
        last = step + 1
        if last % config.metrics_every == 0 or last == config.steps:
            mean = float(np.mean(jax.device_get(losses)))
            losses.clear()
            _log(out, last, mean, start, begin, reporter, config)
            if int(state.optimizer.notfinite_count) >= FAILURES:
                raise RunFailed(
                    f"{FAILURES} gradients in a row were not finite up to step {last}: the checkpoint in {out} is "
                    "intact; begin a run with a lower --learning-rate"
                )
        if last % config.checkpoint_every == 0 or last == config.steps or request.signal is not None:
            checkpoints.save(last, state)
        if request.signal is not None and last < config.steps:
            return Outcome(last, request.signal, None)
    with reporter.task("measuring on the held-out runs"):
        results = validate(config, network, state.theta, collection, programs)
    released.save(
        out, network, jax.device_get(state.theta), card(config, collection, results, time.monotonic() - start)
    )
    return Outcome(last, None, results)


def optimizer_of(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with its schedule; gradients that are not finite are left out."""
    peak, warmup = config.learning_rate, max(config.steps // 50, 1)
    rate = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(config.steps, warmup + 1), 1e-3 * peak)
    steps = optax.chain(
        optax.clip_by_global_norm(config.clip_norm), optax.adamw(rate, weight_decay=config.weight_decay)
    )
    return optax.apply_if_finite(steps, int(np.iinfo(np.int32).max))


def gradient_program(
    network: Network, wiring: Wiring, dtype: str
) -> Callable[[PyTree, Windows], tuple[Float[Array, ""], PyTree]]:
    """(theta, windows) -> loss and gradient."""

    def rounded(theta: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)).astype(jnp.float32), theta)

    return jax.jit(jax.value_and_grad(lambda theta, batch: loss(network, rounded(theta), batch, wiring)))


def loss(network: Network, theta: PyTree, batch: Windows, wiring: Wiring) -> Float[Array, ""]:
    """The loss of windows of one task, see the module."""
    k = jnp.arange(1, batch.mask.shape[1] + 1)

    def one(history: Any, targets: Any, mask: Any) -> Array:
        predicted = network.predict(theta, history, k, wiring)
        total, count = jnp.zeros(()), 0
        for name, scale in scales(history).items():
            error = jnp.abs(predicted[name] - targets[name])
            per_horizon = jnp.sum(error.reshape(error.shape[0], -1), axis=1)
            total += scale[2] * jnp.sum(jnp.where(mask, per_horizon, 0.0)) / (scale[1] + EPSILON)
            count += targets[name][0].size
        return total / (jnp.maximum(jnp.sum(mask), 1) * count)

    return jnp.mean(jax.vmap(one)(batch.history, batch.targets, batch.mask))


def _update(optimizer: optax.GradientTransformation, state: State, grads: PyTree) -> State:
    updates, inner = optimizer.update(grads, state.optimizer, state.theta)
    return State(optax.apply_updates(state.theta, updates), inner)


def _shape(network: Any, config: TrainConfig) -> windows.Shape:
    return windows.Shape(network.states, network.max_horizon, config.strides, config.flip)


def validate(
    config: TrainConfig, network: Any, theta: PyTree, collection: Collection, programs: list[Any]
) -> dict[str, Any]:
    """Loss on the held-out run of every task, beside that of a network that predicts the last state."""
    key = jax.random.fold_in(jax.random.key(config.seed), VALIDATION)
    shape, still = _shape(network, config)._replace(flip=False), jax.tree.map(jnp.zeros_like, theta)
    found = dict[str, dict[str, float]]()
    for n, (task, program) in enumerate(zip(collection.tasks, programs, strict=True)):
        rng = windows.generator(jax.random.fold_in(key, n))
        values = list[tuple[float, float]]()
        # In the batches of training, whose programs are compiled.
        for _ in range(-(-config.validation // config.windows)):
            batch = windows.sample(task.held_out, config.windows, collection.states, shape, rng)
            values.append((float(program(theta, batch)[0]), float(program(still, batch)[0])))
        own, last = np.mean(values, axis=0)
        found[task.name] = {"loss": float(own), "last_state": float(last)}
    ratio = math.exp(np.mean([math.log(max(x["loss"], 1e-30) / max(x["last_state"], 1e-30)) for x in found.values()]))
    return {"ratio": ratio, "tasks": found}


def card(config: TrainConfig, collection: Collection, results: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the release tells of its making."""
    manifest = collection.manifest
    sizes = [task["parameters"] for task in manifest["tasks"]]
    every = manifest["config"]["every"]
    return {
        "recipe": {"config": asdict(config), "seconds_of_last_call": round(seconds, 1), "source": git_revision()},
        "data": {"config": manifest["config"], "tasks": [task.name for task in collection.tasks]},
        "seed": config.seed,
        "horizons": {"spacings": [every * stride for stride in config.strides], "steps": manifest["config"]["steps"]},
        "sizes": {"low": min(sizes), "high": max(sizes)},
        "results": results,
    }


def _log(out: Path, step: int, mean: float, start: float, begin: int, reporter: Reporter, config: TrainConfig) -> None:
    rate = (step - begin) / max(time.monotonic() - start, 1e-9)
    with (out / METRICS).open("a") as file:
        file.write(json.dumps({"step": step, "loss": mean if math.isfinite(mean) else None}) + "\n")
    reporter.note(f"step {step}/{config.steps}  loss {mean:.4f}  {rate:.2f} steps/s")


def _forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run makes again."""
    if metrics.exists():
        lines = metrics.read_text().splitlines(keepends=True)
        write(metrics, "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step))
