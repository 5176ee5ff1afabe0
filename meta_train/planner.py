"""What a run would need on devices that are not here: the real outer step, lowered for them and counted.

The step is lowered for the planned devices and platform over an abstract mesh (`jax.export`), which shows what they
exchange; memory, operations and time are those of one device's share of the pairs, compiled and run on this machine.
The stated model:

    compute       time of one device's share here / --plan-speedup
    all-reduce    2 (D - 1) / D bytes / bandwidth + 2 ceil(log2 D) latency
    efficiency    compute / (compute + all-reduce): nothing overlaps
"""

import dataclasses
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from learned_opt.errors import InputError
from meta_train import mesh, outer
from meta_train.config import MetaTrainConfig
from meta_train.dry_run import flops_per_inner_step, seconds_per_step, show_bytes
from meta_train.estimators.clock import AXIS
from meta_train.outer import Experiment
from meta_train.plan_config import PlanConfig
from meta_train.trainer import compile_step

_ALL_REDUCE = re.compile(r'"stablehlo\.all_reduce".*?\}\) : \([^)]*\) -> tensor<(?:(\d+)x)?f(\d+)>', re.DOTALL)


class Lowered(NamedTuple):
    """An outer step for devices that need not exist."""

    text: str
    """StableHLO."""
    reduced: tuple[int, ...]
    """Bytes of every all-reduce; those that XLA's partitioner adds for other estimators are not there yet."""


def plan(config: MetaTrainConfig, wanted: PlanConfig) -> str:
    """Describe `config` on the planned devices on several lines; nothing is written.

    Raises:
      InputError: no number of devices, or as `outer.build`.
    """
    devices = wanted.plan_devices
    if devices is None:
        raise InputError("--plan-devices is missing: expected a number of devices, such as --plan-devices 512")
    pairs = -(-config.estimator.pairs // devices) * devices
    planned = _with_pairs(config, pairs)
    experiment = outer.build(planned)
    lowered = lower(experiment, devices, (wanted.plan_platform,))
    try:
        local = _share(experiment, pairs // devices)
    except InputError as error:
        raise InputError(
            f"--plan-devices {devices}: the {pairs // devices} of {pairs} pairs of one device cannot be measured alone "
            f"({error}); plan for fewer devices, or more pairs"
        ) from error
    state = jax.device_put(local.init(), jax.devices()[0])
    sizes = _sizes(local, state)
    compiled: Any = compile_step(local, state)
    temporary = compiled.memory_analysis().temp_size_in_bytes
    flops = flops_per_inner_step(local, state) * local.inner_steps
    measured = seconds_per_step(local, state, compiled)
    compute, message = measured / wanted.plan_speedup, sum(lowered.reduced)
    network = all_reduce_seconds(message, devices, wanted)
    per_pair = (sizes["particles"] + temporary) / (pairs // devices)
    fit = int((wanted.plan_memory * 1e9 - sizes["replicated"]) // per_pair)
    used = sizes["replicated"] + sizes["particles"] + temporary
    more = "" if pairs == config.estimator.pairs else f", of {config.estimator.pairs}: --estimator.pairs {pairs}"
    exchanged = (
        f"{len(lowered.reduced)} all-reduce of {show_bytes(message)} a step" if lowered.reduced else "no message"
    )
    known = devices == 1 or mesh.exchanges_once(experiment.estimator)
    time = f"{1e3 * measured:.4g} ms on one device here / {wanted.plan_speedup:g}"
    rows = {
        "devices": f"{devices} x {wanted.plan_platform}, lowered: {len(lowered.text):,} characters of StableHLO",
        "pairs": f"{pairs:,} on {devices} devices, {pairs // devices} on each{more}",
        "work": f"{local.inner_steps:,} inner steps and {flops:,.0f} FLOP on a device a step",
        "memory": f"{show_bytes(used)} on a device: {show_bytes(sizes['replicated'])} theta and data, "
        f"{show_bytes(sizes['particles'])} particles, {show_bytes(temporary)} temporary (as compiled here)",
        "fits": f"{max(fit, 0):,} pairs on a device of {wanted.plan_memory:g} GB, {show_bytes(per_pair)} each",
        "network": f"{exchanged}: {1e3 * network:.3g} ms at {wanted.plan_bandwidth:g} GB/s and "
        f"{wanted.plan_latency:g} us a hop",
        "outer step": f"{1e3 * (compute + network):.4g} ms: {time} + network",
        "efficiency": f"{100 * compute / (compute + network):.1f} % of {devices} devices that exchange nothing",
    }
    if not known:
        rows |= {
            "network": f"not known: {config.estimator.kind} with shaping {config.estimator.shaping} takes more than "
            "one message a step, which XLA's partitioner chooses",
            "outer step": f"more than {1e3 * compute:.4g} ms: {time} + network",
            "efficiency": "not known",
        }
    if fit < pairs // devices:
        rows["fits"] += ": this plan does not fit, more devices or --tasks.samples lower"
    return "\n".join(f"{name:14}{value}" for name, value in rows.items())


def lower(experiment: Experiment, devices: int, platforms: tuple[str, ...]) -> Lowered:
    """The outer step for so many devices of the platforms, whether or not they are here."""
    where = AbstractMesh((devices,), (AXIS,), axis_types=(AxisType.Auto,)) if devices > 1 else None
    shapes = experiment.shapes()
    problems = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), experiment.problems)
    arguments: tuple[Any, ...] = (shapes, problems)
    if where is not None:
        experiment = dataclasses.replace(experiment, mesh=where)
        put = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        stop = jax.ShapeDtypeStruct((devices, mesh.STOPS), jnp.float32, sharding=mesh.spread(where))
        everywhere = jax.tree.map(lambda x: put(x, mesh.replicated(where)), problems)
        arguments = (jax.tree.map(put, shapes, experiment.shardings()), everywhere, stop)
    exported = jax.export.export(jax.jit(experiment.step), platforms=platforms)(*arguments)
    text = str(exported.mlir_module())
    return Lowered(text, tuple(int(n or 1) * int(bits) // 8 for n, bits in _ALL_REDUCE.findall(text)))


def all_reduce_seconds(message: int, devices: int, wanted: PlanConfig) -> float:
    """Of a message of so many bytes, by the stated model."""
    if devices == 1 or not message:
        return 0.0
    sent = 2 * (devices - 1) / devices * message
    hops = 2 * math.ceil(math.log2(devices))
    return sent / (1e9 * wanted.plan_bandwidth) + hops * 1e-6 * wanted.plan_latency


def _with_pairs(config: MetaTrainConfig, pairs: int) -> MetaTrainConfig:
    return dataclasses.replace(config, estimator=dataclasses.replace(config.estimator, pairs=pairs))


def _share(experiment: Experiment, pairs: int) -> Experiment:
    """What one device does: the same tasks with its share of the pairs."""
    from meta_train import estimators

    config = _with_pairs(experiment.config, pairs)
    estimator = estimators.build(config.estimator, max_horizon=config.horizon.high)
    return dataclasses.replace(experiment, config=config, estimator=estimator)


def _sizes(experiment: Experiment, state: Any) -> dict[str, int]:
    """Bytes on one device."""
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    particles = size(state.estimators)
    return {"particles": particles, "replicated": size(state) - particles + size(experiment.problems)}
