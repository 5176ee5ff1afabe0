"""Particles over devices: the same result on any number of them, and one all-reduce."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import Toy, noisy_chaos

from learned_opt.errors import InputError
from meta_train import estimators, mesh, trainer
from meta_train.checkpointing import Checkpoints
from meta_train.collectives import collectives
from meta_train.config import EstimatorConfig
from meta_train.outer import Experiment
from meta_train.presets import PRESETS

pytestmark = pytest.mark.quick_compilation

STEPS = 20
CONFIG = dataclasses.replace(PRESETS["quickstart"].config, metrics_every=STEPS)


@dataclasses.dataclass(frozen=True)
class Two:
    """A rule with two weights, for toy problems."""

    name = "two"

    def init(self, key: Any) -> Any:
        del key
        return jnp.asarray([0.3, -0.2])

    def transform(self, theta: Any, *, num_steps: Any = None) -> Any:
        raise NotImplementedError


@jax.tree_util.register_static
class Leafless(Toy):
    """A toy as an argument of a program: its functions are part of it."""


@cache
def toy(horizon: tuple[int, int]) -> Leafless:
    chaos = noisy_chaos(horizon)
    return Leafless(chaos.reset, chaos.step, horizon)


def made(devices: int, *, problems: int = 1, **settings: Any) -> Experiment:
    """An experiment on a toy problem: 8 pairs, episodes that end within windows."""
    settings = {"pairs": 8, "window": 5, "kind": "pes", "sigma": 0.05} | settings
    config = dataclasses.replace(CONFIG, estimator=EstimatorConfig(**settings))
    toys = (toy((4, 9)), toy((6, 7)))[:problems]
    estimator = estimators.build(config.estimator, max_horizon=9)
    return Experiment(config, Two(), estimator, toys, (), mesh.make(jax.devices()[:devices], 8))


def start(experiment: Experiment) -> tuple[Any, Any]:
    state = experiment.init()
    if experiment.mesh is None:
        state = jax.device_put(state, jax.devices()[0])
    return state, jax.jit(experiment.step).lower(state, *trainer.arguments(experiment)).compile()


def advance(experiment: Experiment, state: Any, step: Any, count: int) -> tuple[Any, Any]:
    report = None
    for _ in range(count):
        state, report = jax.block_until_ready(step(state, *trainer.arguments(experiment)))
    return state, report


def vector(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(jax.device_get(tree))[0])


def assert_close(got: tuple[Any, Any], want: tuple[Any, Any]) -> None:
    a, b = vector(got[0].theta), vector(want[0].theta)
    assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(b), np.linalg.norm(a - b) / np.linalg.norm(b)
    assert got[1].means.keys() == want[1].means.keys()
    for name, value in want[1].means.items():
        np.testing.assert_allclose(got[1].means[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


ONCE = {
    "pes": {},
    "es-single, phases drawn, burn-in": {"kind": "es-single", "phases": "uniform", "burn_in": 5},
    "full-es, episodes of unequal length": {"kind": "full-es"},
    "truncated-es by signs": {"kind": "truncated-es", "shaping": "sign"},
    "forward": {"kind": "forward"},
    "backprop, episodes of unequal length": {"kind": "backprop"},
    "pes-analytic": {"kind": "pes-analytic"},
    "two tasks": {"problems": 2},
    "full-es of two tasks": {"kind": "full-es", "problems": 2},
}


ACROSS = {name: ONCE[name] for name in ("pes", "full-es of two tasks")}
"""Those that two processes are compared on."""


@pytest.mark.parametrize("name", ONCE)
def test_same_theta_on_any_number_of_devices_by_one_all_reduce(name: str) -> None:
    """20 outer steps: 1e-6 relative; between devices, 4 bytes a weight and those of metrics."""
    alone = made(1, **ONCE[name])
    want = advance(alone, *start(alone), count=STEPS)
    for devices in (2, 4, 8) if name == "pes" else (4,):
        several = made(devices, **ONCE[name])
        state, step = start(several)
        got = advance(several, state, step, STEPS)
        assert_close(got, want)
        (only,) = collectives(step.as_text())
        tasks = ONCE[name].get("problems", 1)
        assert only.kind == "all-reduce" and not only.in_loop
        assert only.bytes <= 4 * tasks * (2 + 12 + devices)
        for x in jax.tree.leaves(got[0].estimators):
            assert [shard.data.shape[0] for shard in x.addressable_shards] == [8 // devices] * devices


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("%a = f32[8,4]{1,0} all-reduce(%x)", 128),
        ("%a = (f32[8], bf16[2]) all-reduce-start(%x, %y)", 36),
        ("%a = (f32[8], f32[32]) all-gather-start(%x)", 128),
        ("%a = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%x)", 16),
        ("%a = c64[8] all-reduce(%x)", 64),
        ("%a = f8e4m3fn[8] all-reduce(%x)", 8),
        ("%a = pred[] all-reduce(%x)", 1),
    ],
)
def test_bytes_of_a_collective(line: str, size: int) -> None:
    (found,) = collectives(f"ENTRY %main {{\n  {line}, channel_id=1\n}}")
    assert (found.bytes, found.in_loop) == (size, False)


@pytest.mark.parametrize("settings", [{"shaping": "rank"}, {"kind": "guided"}, {"reference": "es-single"}], ids=str)
def test_estimators_that_are_no_means_are_partitioned(settings: dict[str, Any]) -> None:
    alone, several = made(1, **settings), made(4, **settings)
    assert not mesh.exchanges_once(several.estimator)
    want, (state, step) = advance(alone, *start(alone), count=STEPS), start(several)
    assert_close(advance(several, state, step, STEPS), want)
    assert len(collectives(step.as_text())) > 1


def test_checkpoint_of_four_devices_resumes_on_others(tmp_path: Path) -> None:
    four = made(4)
    state, _ = advance(four, *start(four), count=3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
        assert checkpoints.latest == 3
        results = []
        for devices in (4, 1, 2, 8):
            other = made(devices)
            like, step = start(other)
            found = checkpoints.newest(like, print)
            assert found is not None and found[1] == 3
            for x, y, wanted in zip(*map(jax.tree.leaves, (found[0], state, like)), strict=True):
                raw = jax.random.key_data if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray
                np.testing.assert_array_equal(raw(x), raw(y))
                assert x.sharding.is_equivalent_to(wanted.sharding, x.ndim)
            results.append(advance(other, found[0], step, 10))
    for result in results[1:]:
        assert_close(result, results[0])


def test_devices_that_do_not_divide_the_pairs_are_left_out() -> None:
    six = mesh.make(jax.devices()[:8], 6)
    assert six is not None and six.size == 6
    assert mesh.make(jax.devices()[:2], 3) is None


def test_devices_of_several_processes_must_divide_the_pairs() -> None:
    class Elsewhere:
        def __init__(self, process: int) -> None:
            self.process_index = process

    with pytest.raises(
        InputError, match=r"estimator\.pairs 6: expected a multiple of the 4 devices.*--estimator\.pairs 8"
    ):
        mesh.make([Elsewhere(i // 2) for i in range(4)], 6)


def test_a_request_to_stop_reaches_everybody() -> None:
    four = mesh.make(jax.devices()[:4], 8)
    asked = mesh.stop_request(four, 15, (15, 2))
    np.testing.assert_array_equal(asked, [[1, 0]] * 4)
    np.testing.assert_array_equal(mesh.stop_request(four, None, (15, 2)), [[0, 0]] * 4)
    several = made(4)
    state, step = start(several)
    _, report = step(state, several.problems, mesh.stop_request(several.mesh, 2, (15, 2)))
    np.testing.assert_array_equal(report.stops, [0, 4])
