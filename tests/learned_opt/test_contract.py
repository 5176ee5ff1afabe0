"""What every rule promises as an optax transform; a new rule is one line in `RULES`."""

import dataclasses
import inspect
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rule_table import LOSS, RULES, each_rule, gradients, is_finite, moves, parameters

import learned_opt
from learned_opt import fused, network, rules
from learned_opt.errors import InputError
from learned_opt.rules import base


@each_rule
def test_reference_and_fused_network_agree(rule: Any, theta: Any) -> None:
    """On tensors beyond `fused.TINY`, where the fused forms begin."""
    params = {"w": jax.random.normal(jax.random.key(0), (20, 10)), "conv": jnp.ones((2, 3, 5, 7))}
    found = []
    for evaluate in (network.apply, fused.apply):
        opt, p = rule.transform(theta, num_steps=10, network=evaluate), params
        state, update = opt.init(p), jax.jit(opt.update)
        for i in range(3):
            updates, state = update(gradients(p, i), state, p, value=LOSS)
            p = optax.apply_updates(p, updates)
        found.append(updates)
    scale = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(found[0]))
    tolerance = 1e-3 if rule.name == "celo2" else 3e-5  # five Newton-Schulz steps
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=tolerance * scale), *found)


@each_rule
def test_scan_equals_a_loop_and_one_trace_serves_all_steps(rule: Any, theta: Any) -> None:
    params, opt, traces = parameters(), rule.transform(theta, num_steps=4), []

    @jax.jit
    def step(carry: Any, i: Any) -> Any:
        traces.append(None)
        p, state = carry
        updates, state = opt.update(jax.tree.map(lambda x: jnp.sin(3 * x + i), p), state, p, value=LOSS + i)
        return (optax.apply_updates(p, updates), state), None

    carry = (params, opt.init(params))
    (scanned, _), _ = jax.lax.scan(step, carry, jnp.arange(4.0))
    del traces[:]
    for i in range(4):
        carry, _ = step(carry, jnp.float32(i))
    assert len(traces) <= 1
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), scanned, carry[0])


@each_rule
def test_vmap_over_theta(rule: Any, theta: Any) -> None:
    params = parameters()
    together = jax.tree.map(lambda x: jnp.stack([x, 0.9 * x, 1.1 * x]), theta)

    def first_update(theta: Any) -> Any:
        opt = rule.transform(theta, num_steps=10)
        return opt.update(gradients(params), opt.init(params), params, value=LOSS)[0]

    found = jax.jit(jax.vmap(first_update))(together)
    alone = first_update(jax.tree.map(lambda x: x[2], together))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, rtol=2e-4, atol=1e-7), found, alone)


@each_rule
def test_traced_num_steps(rule: Any, theta: Any) -> None:
    params = parameters()

    @jax.jit
    def update(num_steps: Any) -> Any:
        opt = rule.transform(theta, num_steps=num_steps)
        return opt.update(gradients(params), opt.init(params), params, value=LOSS)[0]

    opt = rule.transform(theta, num_steps=50)
    want, _ = opt.update(gradients(params), opt.init(params), params, value=LOSS)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-7), update(50), want)
    for none in (0, -100):  # count as 1
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-7), update(none), update(1))


@each_rule
def test_meta_gradient_is_finite(rule: Any, theta: Any) -> None:
    dead = {"dead": jnp.ones((3,)), "dead matrix": jnp.ones((4, 3))}
    params = {"w": jax.random.normal(jax.random.key(0), (4, 3)), "b": jnp.ones((3,))} | dead

    def final_loss(theta: Any) -> Any:
        opt = rule.transform(theta, num_steps=2)
        behind_a_gate = lambda p: {name: jax.nn.relu(p[name] - 1e4) for name in dead}

        def step(carry: Any, _: Any) -> Any:
            p, state = carry
            loss, grads = jax.value_and_grad(lambda p: optax.tree.norm(p | behind_a_gate(p), squared=True))(p)
            updates, state = opt.update(grads, state, p, value=loss)
            return (optax.apply_updates(p, updates), state), loss

        (p, _), _ = jax.lax.scan(step, (params, opt.init(params)), None, length=2)
        return optax.tree.norm(p, squared=True)

    grads = jax.jit(jax.grad(final_loss))(theta)
    assert is_finite(grads)
    assert moves(grads)


WRAPPERS = {
    "chain": lambda opt: optax.chain(optax.clip_by_global_norm(1.0), opt, optax.add_decayed_weights(-1e-4)),
    "MultiSteps": lambda opt: optax.MultiSteps(opt, every_k_schedule=2),
    "partition": lambda opt: optax.partition(
        {"learned": opt, "adam": optax.adam(1e-3)},
        lambda params: jax.tree.map(lambda p: "learned" if p.ndim >= 2 else "adam", params),
    ),
    "masked": lambda opt: optax.masked(opt, lambda params: jax.tree.map(lambda p: p.ndim >= 1, params)),
    "apply_if_finite": lambda opt: optax.apply_if_finite(opt, 3),
    "inject_hyperparams": lambda opt: optax.inject_hyperparams(
        lambda learning_rate: optax.chain(opt, optax.scale(learning_rate))
    )(learning_rate=0.5),
    "schedule": lambda opt: optax.chain(opt, optax.scale_by_schedule(optax.linear_schedule(1.0, 0.1, 10))),
    "recipe": lambda opt: learned_opt.chain(opt, learning_rate=0.5, weight_decay=0.1, clip_norm=1.0),
}


def each_wrapper_or_all_at_once() -> list[Any]:
    """One rule under each wrapper alone; the others under all that can be put into each other."""
    nested = lambda opt: WRAPPERS["MultiSteps"](
        WRAPPERS["partition"](WRAPPERS["apply_if_finite"](WRAPPERS["recipe"](WRAPPERS["inject_hyperparams"](opt))))
    )
    one = [pytest.param(RULES["velo"], wrap, id=f"velo {name}") for name, wrap in WRAPPERS.items()]
    return one + [pytest.param(rule, nested, id=f"{name} nested") for name, rule in RULES.items()]


@pytest.mark.parametrize(("rule", "wrap"), each_wrapper_or_all_at_once())
def test_wrappers(rule: Any, theta: Any, wrap: Any) -> None:
    """Wrappers hand `value` on; structure, shapes and dtypes of the state stay."""
    params = parameters()
    opt = wrap(rule.transform(theta, num_steps=10))
    state = opt.init(params)
    before = jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), state)
    for i in range(2):
        updates, state = opt.update(gradients(params, i), state, params, value=LOSS)
        params = optax.apply_updates(params, updates)
    assert jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), state) == before
    assert is_finite(updates)
    assert moves(updates)


@each_rule
def test_theta_as_an_injected_hyperparameter(rule: Any, theta: Any) -> None:
    params = parameters()
    static = set(inspect.signature(rule.transform).parameters) - {"theta"}
    injected = optax.inject_hyperparams(rule.transform, static_args=tuple(static))(theta, num_steps=10)
    plain = rule.transform(theta, num_steps=10)
    got, _ = injected.update(gradients(params), injected.init(params), params, value=LOSS)
    want, _ = plain.update(gradients(params), plain.init(params), params, value=LOSS)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-8), got, want)


@each_rule
def test_map_params_reaches_the_accumulators(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    mapped = optax.tree.map_params(opt, lambda x: x + 1, opt.init(params))
    assert float(mapped.accumulators.m[0]["layer"]["bias"][0]) == 1.0
    assert int(getattr(mapped, "t", 0)) == 0


@each_rule
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_updates_have_the_dtype_of_the_parameters(rule: Any, theta: Any, dtype: Any) -> None:
    params, opt = parameters(dtype), rule.transform(theta, num_steps=10)
    state = opt.init(params)
    updates, new = opt.update(gradients(params), state, params, value=LOSS)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert is_finite(updates)
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    # The statistics are float32 whatever the parameters are: a decay of 0.999 stands still in 8 bits.
    assert {x.dtype for x in jax.tree.leaves(state.accumulators)} == {jnp.dtype(jnp.float32)}


@each_rule
def test_bfloat16_accumulators_are_half_the_state_and_stay_close(rule: Any, theta: Any) -> None:
    params = {"w": jax.random.normal(jax.random.key(0), (6, 4))}
    final, sizes = [], []
    for dtype in (jnp.float32, jnp.bfloat16):
        opt, p = rule.transform(theta, num_steps=10, accumulator_dtype=dtype), params
        state = opt.init(p)
        sizes.append(sum(x.nbytes for x in jax.tree.leaves((state.accumulators.m, state.accumulators.r))))
        for i in range(3):
            updates, state = opt.update(gradients(p, i), state, p, value=LOSS)
            p = optax.apply_updates(p, updates)
        final.append(np.asarray(p["w"] - params["w"]))
    assert sizes[1] == sizes[0] / 2
    assert np.abs(final[1] - final[0]).max() < 0.1 * np.abs(final[0]).max()


@each_rule
def test_sharded_state_needs_no_whole_tensor(rule: Any, theta: Any) -> None:
    """Under a mesh, state and updates lie where the parameters do, and no device gathers a tensor."""
    if jax.device_count() < 8:
        pytest.skip("needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    specs = {"in": PartitionSpec("fsdp", None), "out": PartitionSpec(None, "fsdp"), "bias": PartitionSpec("fsdp")}
    shapes = {"in": (16, 24), "out": (24, 16), "bias": (16,)}
    place = lambda name: NamedSharding(mesh, specs[name])
    host = {name: np.cos(np.arange(np.prod(shape), dtype=np.float32)).reshape(shape) for name, shape in shapes.items()}
    params = {name: jax.device_put(x, place(name)) for name, x in host.items()}
    opt = rule.transform(theta, num_steps=10)
    state = opt.init(params)
    compiled = jax.jit(lambda g, s, p: opt.update(g, s, p, value=LOSS)).lower(params, state, params).compile()
    updates, new = compiled(params, state, params)
    for name in shapes:
        for x in (updates[name], *(m[name] for m in (*state.accumulators.m, *new.accumulators.m))):
            assert x.sharding.is_equivalent_to(place(name), x.ndim)
    gathered = [int(np.prod([int(n) for n in dims.split(",")])) for dims in GATHER.findall(compiled.as_text())]
    if rule.name not in ("celo2", "helm"):  # Newton-Schulz multiplies whole matrices
        assert all(size < 16 * 24 for size in gathered)
    want, _ = opt.update(host, opt.init(host), host, value=LOSS)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-6), updates, want)


GATHER = re.compile(r"= \(?\w+\[([\d,]+)\][^=]* all-gather(?:-start)?\(")


@each_rule
def test_state_can_be_donated_and_theta_lives_on(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    step = jax.jit(lambda s, g, p: opt.update(g, s, p, value=LOSS)[1], donate_argnums=0)
    for _ in range(2):
        state = opt.init(params)
        step(step(state, gradients(params), params), gradients(params), params)
    assert not any(x.is_deleted() for x in jax.tree.leaves(theta))


@each_rule
def test_initial_weights_can_be_donated(rule: Any) -> None:
    jax.jit(lambda theta: jax.tree.map(lambda x: x + 1, theta), donate_argnums=0)(rule.init(jax.random.key(0)))


@each_rule
def test_checkpoints_take_the_state(rule: Any, theta: Any, tmp_path: Any) -> None:
    opt, params = learned_opt.chain(rule.transform(theta, num_steps=10), clip_norm=1.0), parameters()
    state = opt.init(params)
    assert all(x.size for x in jax.tree.leaves(state))  # Orbax refuses empty arrays
    if rule.name == "velo":
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "state", state)
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(tmp_path / "state", state)
        jax.tree.map(np.testing.assert_array_equal, restored, state)


@each_rule
def test_dtypes_of_the_state_stay_under_x64(rule: Any, theta: Any) -> None:
    with jax.enable_x64(True):
        params = {"w": np.ones((4, 3)), "b": np.zeros(3), "s": np.float64(1.0)}
        starts = [rule.init, *([rule.expert] if hasattr(rule, "expert") else [])]
        fresh = [jax.eval_shape(start, jax.random.key(0)) for start in starts]
        opt = rule.transform(theta, num_steps=10)
        state = jax.eval_shape(opt.init, params)
        update = lambda g, s, p: opt.update(g, s, p, value=np.float64(1.0))
        updates, new = jax.eval_shape(update, params, state, params)
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    # Or a checkpoint would have other dtypes than without x64.
    assert np.dtype(np.float64) not in {x.dtype for x in jax.tree.leaves((fresh, state))}
    assert {x.dtype for x in jax.tree.leaves(updates)} == {np.dtype(np.float64)}


@each_rule
def test_equal_rules_share_their_traces(rule: Any, theta: Any) -> None:
    def updates(rule: Any) -> Any:
        opt, params = rule.transform(theta, num_steps=10), parameters()
        return opt.update(gradients(params), opt.init(params), params, value=LOSS)

    updates(rule)
    traced = base._one_tensor._cache_size()
    updates(dataclasses.replace(rule))
    assert base._one_tensor._cache_size() == traced


@each_rule
def test_unexpected_extra_arguments_are_ignored(rule: Any, theta: Any) -> None:
    params, opt = parameters(), rule.transform(theta, num_steps=10)
    state = opt.init(params)
    got, _ = opt.update(gradients(params), state, params, value=LOSS, grad=None, nonsense="x")
    want, _ = opt.update(gradients(params), state, params, value=LOSS)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_registry_makes_every_rule() -> None:
    assert {rule.name for rule in RULES.values()} == set(rules.rule_names())
    for name in rules.rule_names():
        assert rules.make_rule(name).name == name
    assert rules.make_rule("small_fc", {"hidden": 8}) == learned_opt.SmallFC(hidden=8)
    with pytest.raises(InputError, match="did you mean 'small_fc'"):
        rules.make_rule("smal_fc")
    with pytest.raises(InputError, match="hiden"):
        rules.make_rule("small_fc", {"hiden": 8})
