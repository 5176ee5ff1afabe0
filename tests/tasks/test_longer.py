import jax
import numpy as np

from tasks import suites
from tasks.longer import Longer, steps_of


def test_a_longer_task_is_the_same_task_under_another_name():
    task = suites.task("digits_mlp_32")
    longer = Longer(task, 5)
    assert (longer.name, longer.loss_cap) == ("digits_mlp_32_x5", task.loss_cap)
    assert (steps_of(longer, 200), steps_of(task, 200)) == (1000, 200)
    key = jax.random.key(0)
    params, state = longer.init(key)
    for mine, inner in (
        ((params, state), task.init(key)),
        (longer.batch(key), task.batch(key)),
        (longer.loss(params, state, task.batch(key), key), task.loss(params, state, task.batch(key), key)),
        (longer.evaluate(params, state, "valid"), task.evaluate(params, state, "valid")),
    ):
        jax.tree.map(np.testing.assert_array_equal, mine, tuple(inner) if isinstance(mine, tuple) else inner)


def test_the_suite_of_horizons_has_each_task_at_all_lengths():
    tasks = suites.suite("horizons")
    assert sorted(steps_of(task, 1) for task in tasks) == [1] * 5 + [5] * 5 + [25] * 5
    assert len({getattr(task, "task", task).name for task in tasks}) == 5
