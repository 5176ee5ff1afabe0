"""What rules make of input that is wrong or odd: a defined outcome each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_table import LOSS, READS_LOSS, READS_STEPS, RULES, each_rule, gradients, is_finite, parameters

import learned_opt
from learned_opt.errors import InputError
from learned_opt.rules import base


@each_rule
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_entries_of_a_gradient_that_are_not_finite_count_as_zero(rule: Any, theta: Any, bad: float) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    good = gradients(params)
    broken = good | {"layer": good["layer"] | {"w": good["layer"]["w"].at[0, 0].set(bad)}}
    zero = good | {"layer": good["layer"] | {"w": good["layer"]["w"].at[0, 0].set(0.0)}}
    got, state = opt.update(broken, opt.init(params), params, value=LOSS)
    want, _ = opt.update(zero, opt.init(params), params, value=LOSS)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert is_finite(state)


@each_rule
def test_a_huge_gradient_leaves_a_usable_state(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    huge = jax.tree.map(lambda p: jnp.full_like(p, 3e38), params)
    updates, state = opt.update(huge, opt.init(params), params, value=LOSS)
    assert is_finite((updates, state))
    updates, state = opt.update(gradients(params), state, params, value=LOSS)
    assert is_finite((updates, state))


@each_rule
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_leaves_a_usable_state(rule: Any, theta: Any, bad: float) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    state = opt.init(params)
    for value in (bad, 2.0, bad, 1.0):
        updates, state = opt.update(gradients(params), state, params, value=jnp.float32(value))
        assert is_finite((updates, state))


@each_rule
def test_missing_params_are_one_clear_error(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    with pytest.raises(ValueError, match=r"params is None.*call update\(grads, state, params") as error:
        opt.update(gradients(params), opt.init(params), value=LOSS)
    assert "\n" not in str(error.value)


@each_rule
def test_a_missing_loss_is_an_error_for_the_rules_that_read_it(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    state = opt.init(params)
    if rule.name not in READS_LOSS:
        with_loss, _ = opt.update(gradients(params), state, params, value=LOSS)
        without, _ = opt.update(gradients(params), state, params)
        jax.tree.map(np.testing.assert_array_equal, with_loss, without)
        return
    with pytest.raises(ValueError, match=rf"value is None: {rule.name} reads the training loss.*value=loss") as error:
        opt.update(gradients(params), state, params)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^value has shape \(3,\)"):
        opt.update(gradients(params), state, params, value=jnp.ones(3))


@each_rule
def test_num_steps_that_is_no_length(rule: Any, theta: Any) -> None:
    with pytest.raises(InputError, match=r"num_steps is 0.*at least 1"):
        rule.transform(theta, num_steps=0)
    for num_steps in (-1, 2.5, True, "many", np.int64(0), np.array(np.nan), np.array([3, 4])):
        with pytest.raises(InputError, match=r"num_steps is .*at least 1"):
            base.check_num_steps(num_steps, needed=False)


@each_rule
def test_num_steps_may_be_missing_where_it_is_not_read(rule: Any, theta: Any) -> None:
    if rule.name in READS_STEPS:
        with pytest.raises(InputError, match=r"num_steps is None.*give num_steps="):
            rule.transform(theta)
    else:
        rule.transform(theta)


@each_rule
def test_going_on_beyond_num_steps(rule: Any, theta: Any) -> None:
    """Time saturates: steps stay finite, and two far beyond the end see the same time."""
    params, opt = {"b": jnp.ones(3)}, rule.transform(theta, num_steps=1)
    state = opt.init(params)
    for _ in range(6):
        updates, state = opt.update(params, state, params, value=LOSS)
    assert is_finite((updates, state))


@each_rule
def test_theta_of_another_rule(rule: Any, theta: Any, thetas: dict[Any, Any]) -> None:
    for other in thetas.values():
        if jax.tree.map(jnp.shape, other) != jax.tree.map(jnp.shape, theta):
            with pytest.raises(InputError, match=r"theta is not of rule .*leaf .*expected") as error:
                base.check_theta(rule, other)
            assert "\n" not in str(error.value)
    larger = jax.tree.map(lambda x: jnp.stack([x, x]), theta)
    with pytest.raises(InputError, match=r"theta is not of rule"):
        rule.transform(larger, num_steps=10)


@each_rule
@pytest.mark.parametrize(
    ("leaf", "hint"),
    [
        (jnp.arange(3), "masked"),
        (jnp.ones(3, bool), "masked"),
        (jnp.ones(3, jnp.complex64), "split_real_and_imaginary"),
    ],
)
def test_parameters_that_are_no_real_numbers(rule: Any, theta: Any, leaf: Any, hint: str) -> None:
    with pytest.raises(InputError, match=rf"parameter \['steps'\] has dtype .*{hint}"):
        rule.transform(theta, num_steps=10).init({"w": jnp.ones(3), "steps": leaf})


@each_rule
def test_integer_parameters_left_out_with_a_mask(rule: Any, theta: Any) -> None:
    params = {"w": jnp.ones((2, 3)), "steps": jnp.arange(3)}
    grads = {"w": jnp.ones((2, 3)), "steps": np.zeros(3, jax.dtypes.float0)}
    real = lambda tree: jax.tree.map(lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating), tree)
    opt = optax.masked(rule.transform(theta, num_steps=10), real(params))
    updates, _ = opt.update(grads, opt.init(params), params, value=LOSS)
    assert is_finite(updates["w"])


@each_rule
def test_complex_gradients_and_wrong_shapes_are_errors(rule: Any, theta: Any) -> None:
    params, opt = {"w": jnp.ones((2, 3))}, rule.transform(theta, num_steps=10)
    state = opt.init(params)
    with pytest.raises(InputError, match=r"gradient of parameter \['w'\] is complex"):
        opt.update({"w": jnp.ones((2, 3), jnp.complex64)}, state, params, value=LOSS)
    with pytest.raises(ValueError, match=r"shape \(3, 2\) for parameter \['w'\] of shape \(2, 3\)"):
        opt.update({"w": jnp.ones((3, 2))}, state, params, value=LOSS)


@each_rule
@pytest.mark.parametrize("params", [{}, [], (), None], ids=repr)
def test_trees_without_parameters(rule: Any, theta: Any, params: Any) -> None:
    opt = rule.transform(theta, num_steps=10)
    params = {"nothing": params}
    updates, state = opt.update(params, opt.init(params), params, value=LOSS)
    assert updates == params
    assert is_finite(state)


@each_rule
def test_odd_shapes(rule: Any, theta: Any) -> None:
    shapes = [(), (1,), (0,), (3, 0), (2, 1, 3, 1, 2, 2), (1, 1)]
    params, opt = [jnp.ones(shape) for shape in shapes], rule.transform(theta, num_steps=10)
    state = opt.init(params)
    for i in range(2):
        updates, state = opt.update(gradients(params, i), state, params, value=LOSS)
    assert [u.shape for u in updates] == shapes
    assert is_finite((updates, state))


@given(
    rule=st.sampled_from([learned_opt.SmallFC(), RULES["celo"], RULES["celo2"], RULES["nn_adam"]]),
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=5).map(tuple), max_size=3),
    exponent=st.sampled_from([-30, -6, 0, 6, 15, 30]),
    scale=st.sampled_from([0.0, 1e-20, 1.0, 1e6]),
)
@settings(deadline=None, max_examples=25, derandomize=True)
def test_any_tree_of_any_scale_gives_finite_updates(
    rule: Any, shapes: list[tuple[int, ...]], exponent: int, scale: float
) -> None:
    params = [jnp.full(shape, scale) for shape in shapes]
    opt = rule.transform(rule.init(jax.random.key(0)), num_steps=5)
    grads = jax.tree.map(lambda p: jnp.full_like(p, 10.0**exponent), params)
    updates, state = opt.update(grads, opt.init(params), params, value=LOSS)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert [u.shape for u in updates] == shapes
    assert is_finite((updates, state))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.int8], ids=str)
def test_accumulators_of_a_type_that_cannot_hold_them(dtype: Any) -> None:
    rule = learned_opt.SmallFC()
    opt = rule.transform(rule.init(jax.random.key(0)), accumulator_dtype=dtype)
    with pytest.raises(InputError, match=r"accumulator_dtype is .*expected jnp.float32 or jnp.bfloat16"):
        opt.init(jnp.ones(3))


def test_theta_in_another_kind_of_tree() -> None:
    rule = learned_opt.SmallFC()
    with pytest.raises(InputError, match=r"a dict with the same leaves"):
        base.check_theta(rule, rule.init(jax.random.key(0))._asdict())


def test_checking_theta_adds_nothing_to_a_program() -> None:
    """Or the first program of a process would differ from the same one later, and its results be made again."""
    rule = learned_opt.SmallFC(hidden=5)  # as in no other test: what it has looked up is kept
    theta = rule.init(jax.random.key(0))
    programs = [str(jax.make_jaxpr(lambda t: base.check_theta(rule, t) or t)(theta)) for _ in range(2)]
    assert programs[0] == programs[1]
    assert "random" not in programs[0]


@pytest.mark.parametrize(
    "mask",
    [None, {"w": True}, {"w": True, "b": "no"}, {"w": True, "b": None}, {"w": np.ones((2, 3)), "b": True}],
    ids=["none", "missing", "text", "hole", "array"],
)
def test_a_mask_of_celo2_that_does_not_fit(mask: Any) -> None:
    rule, params = learned_opt.Celo2(), {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    opt = rule.transform(rule.init(jax.random.key(0)), adam_mask=mask)
    with pytest.raises(InputError, match=r"^adam_mask is .*expected a tree of True and False"):  # one line
        opt.update(params, opt.init(params), params)


@each_rule
def test_gradients_that_are_no_tree_like_the_parameters_are_one_clear_error(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    short = {"layer": gradients(params)["layer"]}
    with pytest.raises(ValueError, match="the gradients are no tree like the parameters") as error:
        opt.update(short, opt.init(params), params, value=LOSS)
    assert "\n" not in str(error.value)


@each_rule
def test_a_state_of_other_parameters_is_one_clear_error(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    for other in ({"layer": params["layer"]}, params | {"more": jnp.ones(2)}):
        with pytest.raises(ValueError, match="state is that of other parameters") as error:
            opt.update(gradients(params), opt.init(other), params, value=LOSS)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [1j, "a"], ids=str)
def test_a_loss_that_is_no_number_is_one_clear_error(bad: Any) -> None:
    params, opt = parameters(), learned_opt.Helm().transform(learned_opt.Helm().init(jax.random.key(0)), num_steps=10)
    with pytest.raises(TypeError, match=r"value is .*: expected the training loss, a real scalar"):
        opt.update(gradients(params), opt.init(params), params, value=bad)
