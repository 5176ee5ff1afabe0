"""One mesh: particles are spread over all devices of all hosts, theta and the meta-optimizer are everywhere.

    axis "particles"    [N pairs], in equal parts: the state of the estimators
    replicated          theta, the meta-optimizer, the tasks and their data

Each device estimates from its own pairs, and one all-reduce (a sum) makes the meta-gradient of them; nothing else
crosses the network. What else has to be known everywhere is in the same message: metrics, and whether a process has
been asked to stop. Every device has the same number of pairs, so the meta-gradient is the mean of theirs; where whole
episodes of unequal length are run, the mean weighted by their steps.

Noise, tasks and batches are functions of keys that travel with the pairs: the number of devices changes nothing but the
order of sums. Estimators that are no means over pairs (shapings by rank or deviation, mix, guided, a reference) are
left to the partitioner of XLA: same result, more collectives.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from learned_opt.errors import InputError
from meta_train.estimators.analytic import PESAnalytic
from meta_train.estimators.backprop import Backprop
from meta_train.estimators.burn_in import BurnIn
from meta_train.estimators.clock import AXIS, Phases
from meta_train.estimators.credit import Carry
from meta_train.estimators.evolution import Evolution
from meta_train.estimators.shaping import Shaping
from meta_train.estimators.unroll import accumulator

PyTree = Any

STOPS = 2
"""Entries of a device's request to stop: SIGTERM, SIGINT; 1.0 if its process has received it."""
MAXIMA = ("delta_abs_max",)
"""Metrics that are the largest value of all pairs; those without a list are means over counted steps."""
TOTALS = ("episodes_begun",)
"""Metrics that are sums over pairs."""
UNWEIGHTED = ("lost_gradients",)
"""Metrics that are means over pairs."""
SIGNAL = "signal_to_noise"
"""Metric of the gradient itself."""


class Estimate(NamedTuple):
    """What one outer step learns from all tasks and all devices."""

    gradient: PyTree
    """Like theta: mean over tasks."""
    states: tuple[PyTree, ...]
    """Of the estimator of each task, after the step."""
    metrics: dict[str, Array]
    """Means over tasks."""
    stops: Float[Array, " 2"]
    """Devices that ask to stop, see `STOPS`."""


def make(devices: Sequence[Any], pairs: int) -> Mesh | None:
    """The mesh of a run: all `devices`, or as many of one process as divide its pairs.

    Args:
      devices: in the order of `jax.devices()`, which all processes agree on.
      pairs: N.

    Returns:
      None where one device is left: the run then is the plain program.

    Raises:
      InputError: devices of several processes that do not divide the pairs.
    """
    count = len(devices)
    if len({device.process_index for device in devices}) > 1:
        if pairs % count:
            raise InputError(
                f"estimator.pairs {pairs}: expected a multiple of the {count} devices of all processes, such as "
                f"--estimator.pairs {-(-pairs // count) * count}"
            )
    else:
        count = max(n for n in range(1, count + 1) if pairs % n == 0)
    if count == 1:
        return None
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=list(devices[:count]))


def replicated(mesh: Any) -> NamedSharding:
    """On every device in full."""
    return NamedSharding(mesh, PartitionSpec())


def spread(mesh: Any) -> NamedSharding:
    """Leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def of_pairs(mesh: Any, tree: PyTree, pairs: int) -> PyTree:
    """Shardings for the state of estimators: spread where the leading axis is that of the N pairs."""
    return jax.tree.map(lambda x: spread(mesh) if x.ndim and x.shape[0] == pairs else replicated(mesh), tree)


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Arrays that every process has, as arrays of the mesh; without any exchange between processes."""
    where = replicated(mesh)

    def one(x: Array) -> Array:
        if isinstance(x, jax.Array) and x.sharding == where:
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        value = np.asarray(x)
        return jax.make_array_from_callback(value.shape, where, lambda index: value[index])

    return jax.tree.map(one, tree)


def here(tree: PyTree) -> PyTree:
    """Replicated arrays as arrays of one device of this process."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data, tree)


def stop_request(mesh: Any, number: int | None, numbers: Sequence[int]) -> Float[Array, "devices 2"]:
    """What this process asks of all: to stop because of the signal `number`, one of `numbers`, or nothing."""
    row = np.asarray([float(number == each) for each in numbers], np.float32)
    rows = np.broadcast_to(row, (mesh.size, STOPS))
    return jax.make_array_from_callback(rows.shape, spread(mesh), lambda index: rows[index])


def exchanges_once(estimator: Any) -> bool:
    """Whether an estimate is a mean over pairs, so that one all-reduce of it is enough."""
    if isinstance(estimator, BurnIn):
        return exchanges_once(estimator.estimator)
    if isinstance(estimator, Evolution):
        return estimator.shaping in (Shaping.NONE, Shaping.SIGN)
    return isinstance(estimator, Backprop | PESAnalytic)


def estimate(
    mesh: Any, estimator: Any, problems: tuple[Any, ...], theta: PyTree, states: tuple[PyTree, ...], stop: Array
) -> Estimate:
    """One estimate of every task, from the pairs of all devices; for an estimator that `exchanges_once`.

    Args:
      mesh: also an abstract one.
      estimator: for all N pairs.
      problems: replicated, one for each task.
      theta: replicated.
      states: of the estimator of each task, spread as in `of_pairs`.
      stop: see `stop_request`.
    """
    pairs, local = _pairs(estimator), _for_one_place(estimator, mesh.size)
    # Whole episodes of unequal length: how many steps count differs from place to place, and from task to task.
    varies = _whole(local) and any(problem.min_horizon != problem.max_horizon for problem in problems)

    def place(problems: Any, theta: PyTree, states: Any, stop: Array) -> Estimate:
        dtype = accumulator(theta)
        estimates = [local.estimate(*task) for task in zip(problems, [theta] * len(problems), states, strict=True)]
        gradients, states, metrics = map(list, zip(*estimates, strict=True))
        gradients = [jax.tree.map(lambda x: x.astype(dtype), gradient) for gradient in gradients]
        weights = [jnp.sum(state.clock.horizon).astype(dtype) if varies else jnp.ones((), dtype) for state in states]
        message = {
            "gradients": [scaled(g, w) for g, w in zip(gradients, weights, strict=True)] if varies else mean(gradients),
            "weights": weights,
            "metrics": [_summands(m, w, mesh.size) for m, w in zip(metrics, weights, strict=True)],
            "squares": [
                w**2 * mean_square(g, m, local.pairs) for g, m, w in zip(gradients, metrics, weights, strict=True)
            ],
            "stops": jnp.sum(stop, axis=0),
        }
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: x.astype(dtype), message))
        total = unravel(jax.lax.psum(flat, AXIS))
        weights = total["weights"]
        if varies:
            gradient = mean([scaled(g, 1 / w) for g, w in zip(total["gradients"], weights, strict=True)])
        else:
            gradient = scaled(total["gradients"], 1 / mesh.size)
        measured = mean([_of_sums(m, w, mesh.size) for m, w in zip(total["metrics"], weights, strict=True)])
        squares = [mesh.size * s / w**2 for s, w in zip(total["squares"], weights, strict=True)]
        measured[SIGNAL] = signal_to_noise(gradient, squares, pairs)
        gradient = jax.tree.map(lambda g, t: g.astype(t.dtype), gradient, theta)
        return Estimate(gradient, tuple(states), measured, total["stops"])

    everywhere, mine = PartitionSpec(), PartitionSpec(AXIS)
    given: Any = (everywhere, mine, everywhere, everywhere)
    return jax.shard_map(
        place,
        mesh=mesh,
        in_specs=(everywhere, everywhere, mine, mine),
        out_specs=Estimate(*given),
        check_vma=False,  # what came out of one sum is the same everywhere
    )(problems, theta, states, stop)


def signal_to_noise(gradient: PyTree, squares: Sequence[Array], pairs: int) -> Array:
    """|g|^2 / Var(g) of the mean over tasks, whose gradients count as orthogonal where variances are concerned.

    Args:
      gradient: g.
      squares: of every task, mean |g_n|^2 over its pairs.
      pairs: N, at least 2.
    """
    norm = optax.tree.norm(gradient, squared=True)
    variance = (sum(squares) / len(squares) ** 2 - norm) / (pairs - 1)
    return norm / jnp.maximum(variance, jnp.finfo(norm.dtype).tiny)


def mean_square(gradient: PyTree, metrics: dict[str, Array], pairs: int) -> Array:
    """Mean |g_n|^2 over N pairs, from their mean gradient and its signal to noise."""
    norm = optax.tree.norm(gradient, squared=True)
    if pairs == 1:
        return norm
    signal = metrics[SIGNAL]
    return norm + (pairs - 1) * jnp.where(norm == 0, 0.0, norm / jnp.where(norm == 0, 1.0, signal))


def scaled(tree: PyTree, factor: Array | float) -> PyTree:
    """Every leaf times a scalar."""
    return jax.tree.map(lambda x: x * factor, tree)


def mean(trees: Sequence[PyTree]) -> PyTree:
    """Leaf by leaf."""
    return jax.tree.map(lambda *xs: sum(xs) / len(xs), *trees)


def _for_one_place(estimator: Any, places: int) -> Any:
    """The estimator for its share of the pairs."""
    if isinstance(estimator, BurnIn):
        return _for_one_place(estimator.estimator, places)
    phases = Phases.SPREAD_OVER_MESH if estimator.phases is Phases.SPREAD else estimator.phases
    return replace(estimator, pairs=estimator.pairs // places, phases=phases)


def _pairs(estimator: Any) -> int:
    return _pairs(estimator.estimator) if isinstance(estimator, BurnIn) else estimator.pairs


def _whole(estimator: Any) -> bool:
    """Whether every estimate runs whole episodes."""
    return estimator.carry is Carry.NONE if isinstance(estimator, Evolution) else getattr(estimator, "whole", False)


def _summands(metrics: dict[str, Array], weight: Array, places: int) -> dict[str, Array]:
    """What one place adds to the metrics of all; the largest of it has an entry of its own, where others add zero."""
    slot = jnp.arange(places) == jax.lax.axis_index(AXIS)
    form = {name: weight * value for name, value in metrics.items() if name != SIGNAL}
    form |= {name: jnp.where(slot, metrics[name], 0.0) for name in MAXIMA if name in metrics}
    return form | {name: metrics[name] for name in (*TOTALS, *UNWEIGHTED) if name in metrics}


def _of_sums(total: dict[str, Array], weight: Array, places: int) -> dict[str, Array]:
    """The metrics of all places."""
    form = {name: value / weight for name, value in total.items()}
    form |= {name: jnp.max(total[name]) for name in MAXIMA if name in total}
    form |= {name: total[name] / places for name in UNWEIGHTED if name in total}
    return form | {name: total[name] for name in TOTALS if name in total}
