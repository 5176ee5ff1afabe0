"""What every rule promises as an optax transform; a new rule is one line in `RULES`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import learned_opt
from learned_opt import fused, network, rules
from learned_opt.errors import InputError

RULES = [learned_opt.SmallFC()]
each_rule = pytest.mark.parametrize("rule", RULES, ids=repr)


def parameters(dtype: Any = jnp.float32) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 2)
    # One tensor above the size where the fused network begins, one below.
    shapes = {"w": (20, 10), "bias": (5,)}
    tree = {name: jax.random.normal(key, shape, dtype) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}
    return {"layer": tree, "scale": jnp.asarray(1.5, dtype)}


def gradients(params: Any, seed: int = 1) -> Any:
    return optax.tree.random_like(jax.random.key(seed), params, sampler=jax.random.normal)


@pytest.fixture
def theta(rule: Any) -> Any:
    return rule.init(jax.random.key(2))


@pytest.mark.parametrize("rule", [*RULES, learned_opt.SmallFC(hidden=8, hidden_layers=1)], ids=repr)
def test_reference_and_fused_network_agree(rule: Any, theta: Any) -> None:
    params = parameters()
    moves = []
    for evaluate in (network.apply, fused.apply):
        opt, p = rule.transform(theta, num_steps=10, network=evaluate), params
        state, update = opt.init(p), jax.jit(opt.update)
        for i in range(3):
            updates, state = update(gradients(p, i), state, p)
            p = optax.apply_updates(p, updates)
        moves.append(updates)
    scale = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(moves[0]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-5 * scale), *moves)


@each_rule
def test_scan_equals_a_loop(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=4)

    def step(carry: Any, i: Any) -> Any:
        p, state = carry
        updates, state = opt.update(jax.tree.map(lambda x: jnp.sin(3 * x + i), p), state, p, value=jnp.float32(1.0))
        return (optax.apply_updates(p, updates), state), None

    carry = (params, opt.init(params))
    (scanned, _), _ = jax.lax.scan(step, carry, jnp.arange(4.0))
    for i in range(4):
        carry, _ = step(carry, jnp.float32(i))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), scanned, carry[0])


@each_rule
def test_vmap_over_theta(rule: Any) -> None:
    params = parameters()
    thetas = jax.vmap(rule.init)(jax.random.split(jax.random.key(3), 4))

    def first_update(theta: Any) -> Any:
        opt = rule.transform(theta, num_steps=10)
        return opt.update(gradients(params), opt.init(params), params)[0]

    together = jax.jit(jax.vmap(first_update))(thetas)
    alone = jax.jit(first_update)(jax.tree.map(lambda x: x[2], thetas))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-4, atol=1e-8), together, alone)


@each_rule
def test_traced_num_steps(rule: Any, theta: Any) -> None:
    params = parameters()

    @jax.jit
    def update(num_steps: Any) -> Any:
        opt = rule.transform(theta, num_steps=num_steps)
        return opt.update(gradients(params), opt.init(params), params, value=jnp.float32(2.0))[0]

    opt = rule.transform(theta, num_steps=50)
    want, _ = opt.update(gradients(params), opt.init(params), params, value=jnp.float32(2.0))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-8), update(50), want)


@each_rule
def test_meta_gradient_is_finite(rule: Any, theta: Any) -> None:
    params = parameters()

    def final_loss(theta: Any) -> Any:
        opt = rule.transform(theta, num_steps=2)
        p, state = params, opt.init(params)
        for _ in range(2):
            loss, grads = jax.value_and_grad(lambda p: optax.tree.norm(p, squared=True))(p)
            updates, state = opt.update(grads, state, p, value=loss)
            p = optax.apply_updates(p, updates)
        return optax.tree.norm(p, squared=True)

    grads = jax.jit(jax.grad(final_loss))(theta)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))
    assert any(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads))


def wrappers() -> dict[str, Any]:
    return {
        "chain": lambda opt: optax.chain(optax.clip_by_global_norm(1.0), opt, optax.add_decayed_weights(-1e-4)),
        "MultiSteps": lambda opt: optax.MultiSteps(opt, every_k_schedule=2),
        "partition": lambda opt: optax.partition(
            {"learned": opt, "adam": optax.adam(1e-3)},
            lambda params: jax.tree.map(lambda p: "learned" if p.ndim >= 2 else "adam", params),
        ),
        "apply_if_finite": lambda opt: optax.apply_if_finite(opt, 3),
        "inject_hyperparams": lambda opt: optax.inject_hyperparams(
            lambda learning_rate: optax.chain(opt, optax.scale(learning_rate))
        )(learning_rate=0.5),
        "schedule": lambda opt: optax.chain(opt, optax.scale_by_schedule(optax.linear_schedule(1.0, 0.1, 10))),
    }


@each_rule
@pytest.mark.parametrize("wrapper", wrappers())
def test_wrappers(rule: Any, theta: Any, wrapper: str) -> None:
    """Each wrapper works under jit, with and without `value`, and keeps structure, shapes and dtypes."""
    params = parameters()
    opt = wrappers()[wrapper](rule.transform(theta, num_steps=10))
    state = opt.init(params)
    update = jax.jit(opt.update)
    before = jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), state)
    for i in range(2):
        updates, state = update(gradients(params, i), state, params, value=jnp.float32(1.0))
        params = optax.apply_updates(params, updates)
    assert jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), state) == before
    assert all(bool(jnp.all(jnp.isfinite(u))) for u in jax.tree.leaves(updates))
    assert any(bool(jnp.any(u != 0)) for u in jax.tree.leaves(updates))


@each_rule
def test_theta_as_an_injected_hyperparameter(rule: Any, theta: Any) -> None:
    params = parameters()
    injected = optax.inject_hyperparams(rule.transform, static_args=("num_steps", "network", "accumulator_dtype"))(
        theta, num_steps=10
    )
    plain = rule.transform(theta, num_steps=10)
    got, _ = injected.update(gradients(params), injected.init(params), params)
    want, _ = plain.update(gradients(params), plain.init(params), params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), got, want)


@each_rule
def test_map_params_reaches_the_accumulators(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    state = opt.init(params)
    mapped = optax.tree.map_params(opt, lambda x: x + 1, state)
    assert float(mapped.accumulators.m[0]["layer"]["bias"][0]) == 1.0
    assert int(mapped.t) == 0


@each_rule
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_updates_have_the_dtype_of_the_parameters(rule: Any, theta: Any, dtype: Any) -> None:
    params, opt = parameters(dtype), rule.transform(theta, num_steps=10)
    state = opt.init(params)
    updates, new = opt.update(gradients(params), state, params, value=jnp.float32(1.0))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    # The statistics are float32 whatever the parameters are: a decay of 0.999 stands still in 8 bits.
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.accumulators))


@each_rule
def test_no_recompilation_on_the_second_call(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    state, traces = opt.init(params), []

    @jax.jit
    def update(g: Any, s: Any, p: Any, value: Any) -> Any:
        traces.append(None)
        updates, s = opt.update(g, s, p, value=value)
        return optax.apply_updates(p, updates), s

    for i in range(3):
        params, state = update(gradients(params, i), state, params, jnp.float32(1.0))
    assert len(traces) == 1


@each_rule
def test_state_keeps_the_sharding_of_the_parameters(rule: Any, theta: Any) -> None:
    if jax.device_count() < 2:
        pytest.skip("needs two devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    spec = NamedSharding(mesh, PartitionSpec("d", None))
    params = {"w": jax.device_put(jnp.ones((8, 6)), spec)}
    opt = rule.transform(theta, num_steps=10)
    state = opt.init(params)
    assert state.accumulators.m[0]["w"].sharding.is_equivalent_to(spec, 2)
    updates, new = jax.jit(opt.update)(params, state, params)
    assert updates["w"].sharding.is_equivalent_to(spec, 2)
    assert new.accumulators.m[0]["w"].sharding.is_equivalent_to(spec, 2)
    want, _ = opt.update(jax.tree.map(np.asarray, params), opt.init({"w": jnp.ones((8, 6))}), {"w": jnp.ones((8, 6))})
    np.testing.assert_allclose(updates["w"], want["w"], rtol=1e-4, atol=1e-8)


@each_rule
def test_unexpected_extra_arguments_are_ignored(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    state = opt.init(params)
    got, _ = opt.update(gradients(params), state, params, value=jnp.float32(1.0), grad=None, nonsense="x")
    want, _ = opt.update(gradients(params), state, params, value=jnp.float32(1.0))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@each_rule
def test_missing_params_are_one_clear_error(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    with pytest.raises(ValueError, match=r"params is None.*call update\(grads, state, params\)") as error:
        opt.update(gradients(params), opt.init(params))
    assert "\n" not in str(error.value)


def test_small_fc_does_not_read_the_loss() -> None:
    rule = learned_opt.SmallFC()
    params, opt = parameters(), rule.transform(rule.init(jax.random.key(0)))
    state = opt.init(params)
    with_value, _ = opt.update(gradients(params), state, params, value=jnp.float32(7.0))
    without, _ = opt.update(gradients(params), state, params)
    jax.tree.map(np.testing.assert_array_equal, with_value, without)


@given(
    shapes=st.lists(st.lists(st.integers(1, 4), max_size=5).map(tuple), max_size=3),
    exponent=st.sampled_from([-30, -6, 0, 6, 15]),
)
@settings(deadline=None, max_examples=10, derandomize=True)
def test_any_tree_of_any_scale_gives_finite_updates(shapes: list[tuple[int, ...]], exponent: int) -> None:
    rule = learned_opt.SmallFC()
    params = [jnp.ones(shape) for shape in shapes]
    opt = rule.transform(rule.init(jax.random.key(0)))
    grads = jax.tree.map(lambda p: p * 10.0**exponent, params)
    updates, state = jax.jit(opt.update)(grads, opt.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert [u.shape for u in updates] == shapes
    assert all(bool(jnp.all(jnp.isfinite(u))) for u in jax.tree.leaves((updates, state)))


def test_registry_makes_every_rule() -> None:
    for name in rules.rule_names():
        assert rules.make_rule(name).name == name
    assert rules.make_rule("small_fc", {"hidden": 8}) == learned_opt.SmallFC(hidden=8)
    with pytest.raises(InputError, match="did you mean 'small_fc'"):
        rules.make_rule("smal_fc")
    with pytest.raises(InputError, match="hiden"):
        rules.make_rule("small_fc", {"hiden": 8})
