"""What a configuration would do and cost, without doing it; nothing is written."""

import json
import time
from typing import Any

import jax
import optax

from meta_train import config as configs
from meta_train import hosts, outer
from meta_train.collectives import collectives
from meta_train.config import MetaTrainConfig
from meta_train.outer import Experiment, State
from meta_train.progress import Reporter, duration
from meta_train.trainer import arguments, compile_step


def dry_run(config: MetaTrainConfig, reporter: Reporter | None = None) -> str:
    """Compile the outer step, make two on the devices of this process, and describe the run on several lines.

    Args:
      config: the run.
      reporter: told what takes a while; standard error by default.

    Raises:
      InputError: as `meta_train`.
    """
    experiment = hosts.on(jax.devices(), outer.build(config))
    state = experiment.init()
    pairs = config.estimator.pairs * len(experiment.problems)
    theta = f"{optax.tree.size(state.theta):,} weights of {experiment.rule.name}"
    reporter = reporter or Reporter()
    start = time.monotonic()
    with reporter.task("compiling the outer step"):
        compiled: Any = compile_step(experiment, state)
    compile_seconds = time.monotonic() - start
    messages = collectives(compiled.as_text())
    flops = flops_per_inner_step(experiment, state)
    memory = compiled.memory_analysis()
    given, temporary = show_bytes(memory.argument_size_in_bytes), show_bytes(memory.temp_size_in_bytes)
    with reporter.task("making two outer steps"):
        seconds = seconds_per_step(experiment, state, compiled)
    devices, used = jax.devices(), 1 if experiment.mesh is None else experiment.mesh.size
    rows = {
        "configuration": json.dumps(configs.to_json(config)),
        "tasks": ", ".join(problem.task.name for problem in experiment.problems),
        "theta": theta,
        "particles": f"{pairs} antithetic pairs, {experiment.inner_steps:,} inner steps per outer step",
        "devices": f"{used} of {len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "network": f"{len(messages)} collectives, {show_bytes(sum(each.bytes for each in messages))} an outer step",
        "memory": f"{given} state and data, {temporary} temporary, on one device",
        "work": f"{flops:,.0f} FLOP per inner step, {flops * experiment.inner_steps:,.0f} per outer step",
        "compilation": f"{compile_seconds:.1f} s",
        "outer step": f"{1e3 * seconds:.1f} ms, {experiment.inner_steps / seconds:,.0f} inner steps/s",
        "whole run": f"{duration(compile_seconds + seconds * config.steps)} h:m:s for {config.steps:,} outer steps",
    }
    return "\n".join(f"{name:14}{value}" for name, value in rows.items())


def flops_per_inner_step(experiment: Experiment, state: State) -> float:
    """XLA's count for one inner step of one particle, mean over tasks; loops within a step count once."""
    key = jax.random.key(0)
    counts = []
    for problem in experiment.problems:
        inner = jax.eval_shape(problem.reset, state.theta, key)
        cost: Any = jax.jit(problem.step).lower(state.theta, inner, key).cost_analysis()
        counts.append(float(cost["flops"]))
    return sum(counts) / len(counts)


def seconds_per_step(experiment: Experiment, state: State, compiled: Any) -> float:
    """Of the second outer step: the first one touches fresh memory and begins every episode."""
    rest = arguments(experiment)
    state, _ = jax.block_until_ready(compiled(state, *rest))
    start = time.monotonic()
    jax.block_until_ready(compiled(state, *rest))
    return time.monotonic() - start


def show_bytes(n: int | float) -> str:
    """A size for people."""
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:,.1f} GB"
