from dataclasses import asdict, dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.errors import InputError
from meta_train.evaluate import overhead
from meta_train.evaluate.contenders import Contender, baseline
from meta_train.evaluate.overhead import Program, in_turns, measure, parameters, state_bytes, step_loop, update_loop
from meta_train.evaluate.summary import Overhead
from tasks.task import Variables

pytestmark = pytest.mark.quick_compilation


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quadratic:
    """|w - batch|^2 / 2; the state of the model counts its losses."""

    name: str = field(metadata={"static": True})
    size: int = field(metadata={"static": True})
    loss_cap: float = field(default=10.0, metadata={"static": True})

    def init(self, key):
        return Variables({"m": {"w": jax.random.uniform(key, (self.size,))}}, {"calls": jnp.zeros(())})

    def batch(self, key):
        return jax.random.uniform(key, (self.size,))

    def loss(self, params, state, batch, key):
        return 0.5 * jnp.sum((params["m"]["w"] - batch) ** 2), {"calls": state["calls"] + 1}

    def evaluate(self, params, state, split):
        raise NotImplementedError


TASK = Quadratic("small", 3)
KEY = jax.random.key(3)


def update(gradient, state, params=None, *, value, obj_fn):
    """SGD that reads the extra arguments, and counts in a state of 16 bytes."""
    return jax.tree.map(lambda g: -0.1 * g + 0.0 * value * obj_fn(params), gradient), state + 1


SGD = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(4), update)
COUNTING = Contender("counting", "learned", lambda theta, settings, steps: SGD, ({},))


def carry():
    params, model_state = TASK.init(jax.random.key(1))
    return params, model_state, SGD.init(params), {"m": {"w": jnp.array([1.0, 2.0, 3.0])}}


def test_a_loop_of_updates_is_that_many_with_one_gradient():
    params, model_state, state, gradient = carry()
    after = update_loop(TASK, COUNTING, None, KEY, 4, (params, model_state, state, gradient))
    np.testing.assert_allclose(after[0]["m"]["w"], params["m"]["w"] - 0.4 * gradient["m"]["w"], rtol=1e-5)
    np.testing.assert_array_equal(after[2], np.full(4, 4.0))
    np.testing.assert_array_equal(after[3]["m"]["w"], gradient["m"]["w"])
    assert after[1]["calls"] == 0


def test_a_loop_of_steps_trains_on_new_batches():
    params, model_state, state, gradient = carry()
    after = step_loop(TASK, COUNTING, None, KEY, 3, (params, model_state, state, gradient))
    w = params["m"]["w"]
    for t in range(3):
        batch_key, _ = jax.random.split(jax.random.fold_in(KEY, t))
        w = w - 0.1 * (w - TASK.batch(batch_key))
    np.testing.assert_allclose(after[0]["m"]["w"], w, rtol=1e-5)
    assert after[1]["calls"] == 3 and after[2][0] == 3


def test_measure(monkeypatch):
    monkeypatch.setattr(overhead, "LASTING", 1e-6)
    monkeypatch.setattr(overhead, "ENOUGH", 0.0)
    found = measure([baseline("adam", 1), COUNTING], [Quadratic("tiny", 2), TASK, Quadratic("less", 1)])
    assert list(found) == ["adam", "counting"]
    assert {o.task for o in found.values()} == {"small"} and {o.parameters for o in found.values()} == {3}
    assert found["counting"].state_bytes_per_parameter == pytest.approx(16 / 3)
    assert found["adam"].state_bytes_per_parameter > 8  # two moments, and counts
    for o in found.values():
        assert min(o.update_seconds, o.step_seconds, o.update_ratio, o.step_ratio) > 0
        assert Overhead(**asdict(o)) == o
    assert measure([], [TASK]) == {}


def test_sizes():
    assert parameters(Quadratic("q", 17)) == 17
    assert state_bytes(TASK, COUNTING) == 16


def test_n_is_a_multiple_of_ten_that_lasts(monkeypatch):
    clock = iter([0.0105])  # of 10 steps
    monkeypatch.setattr(overhead, "seconds", lambda run: next(clock))
    assert overhead.program(TASK, COUNTING, update_loop, carry()).steps == 30


def test_ratios_are_of_neighbours(monkeypatch):
    # Reference and own in turns; the machine becomes three times slower in the middle.
    times = iter([1.0, 4.0, 1.0, 4.0, 3.0, 12.0, 3.0, 12.0, 3.0, 18.0])
    monkeypatch.setattr(overhead, "seconds", lambda run: next(times))
    monkeypatch.setattr(overhead, "ROUNDS", (5, 5))
    own, reference = Program(lambda: None, 20), Program(lambda: None, 10)
    assert in_turns(own, reference) == pytest.approx((12.0 / 20, 2.0))


def test_rounds_end_when_it_is_enough(monkeypatch):
    def count(enough):
        monkeypatch.setattr(overhead, "ENOUGH", enough)
        calls = []
        in_turns(Program(lambda: calls.append(1), 1), Program(lambda: None, 1))
        return len(calls)

    assert (count(0.0), count(60.0)) == overhead.ROUNDS


@pytest.mark.parametrize("content", ["", "[]", '{"adam": {}}', '{"adam": {"task": "t", "parameters": "x"}}', "\x00"])
def test_costs_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / "overhead.json").write_text(content)
    with pytest.raises(InputError, match=r"out: .*overhead\.json is damaged .*; remove it, .*--overhead") as caught:
        overhead.read_costs(tmp_path / "overhead.json")
    assert "\n" not in str(caught.value)
