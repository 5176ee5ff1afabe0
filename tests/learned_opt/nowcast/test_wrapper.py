"""The wrapper: when it jumps, where to, and what it leaves alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from plain_graph import weights

from learned_opt import nowcast
from learned_opt.errors import InputError

pytestmark = pytest.mark.quick_compilation
LINE = nowcast.LineFit()
PARAMS = {"w": jnp.arange(6.0).reshape(3, 2), "b": jnp.ones(2), "s": jnp.float32(0.5)}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)
WEIGHTS = weights(nowcast.WNN(hidden=2))


def start(opt: Any, params: Any) -> Any:
    return opt.init(params)


def run(opt: Any, params: Any, steps: int, state: Any = None, grads: Any = None) -> tuple[Any, Any, list[Any]]:
    """Parameters and state after so many calls with one gradient, and the parameters after each."""
    state = opt.init(params) if state is None else state

    def step(params: Any, state: Any) -> Any:
        updates, state = opt.update(grads or jax.tree.map(jnp.ones_like, params), state, params)
        return optax.apply_updates(params, updates), state

    step, seen = jax.jit(step), []
    for _ in range(steps):
        params, state = step(params, state)
        seen.append(params)
    return params, state, seen


def assert_equal(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_calls_record_and_jump_as_published() -> None:
    """With descent at a constant rate, a line goes k spacings on; the states are those before calls 2, 4, …, 10."""
    opt = nowcast.nowcast(optax.sgd(0.01), LINE, num_steps=30, period=10, horizons=(3, 2, 1))
    _, state, seen = run(opt, PARAMS, 30)
    moved = np.array([float(PARAMS["s"] - p["s"]) / 0.01 for p in seen])
    # The tenth call jumps 3 x 2 steps from the state before it, 9 steps on; the twentieth 2 x 2; the last not at all.
    want = [*range(1, 10), 15, *range(16, 25), 28, *range(29, 39)]
    np.testing.assert_allclose(moved, want, rtol=1e-4)
    assert int(state.t) == 30


def test_periods_that_the_states_do_not_divide() -> None:
    """period 12: spacing 2, a jump every 10 calls; the horizon is that of the call's window of 12."""
    opt = nowcast.nowcast(optax.sgd(0.01), LINE, num_steps=1000, period=12, horizons=(1, 5))
    _, _, seen = run(opt, PARAMS, 20)
    moved = np.array([float(PARAMS["s"] - p["s"]) / 0.01 for p in seen])
    np.testing.assert_allclose(moved, [*range(1, 10), 11, *range(12, 21), 30], rtol=1e-4)


def test_no_jump_in_the_last_window() -> None:
    """A jump is made with a whole window of calls left, and not with one call less."""
    for num_steps, jumps in ((20, True), (19, False)):
        opt = nowcast.nowcast(optax.sgd(0.01), LINE, num_steps=jnp.int32(num_steps), period=10, horizons=3)
        state, due = start(opt, PARAMS), []
        for n in range(num_steps):
            due.append(bool(nowcast.jumps_next(state._replace(t=jnp.int32(n)))))
        assert due == [n == 9 and jumps for n in range(num_steps)]


def test_the_inner_state_stays_over_a_jump() -> None:
    opt = nowcast.nowcast(optax.adam(0.01), LINE, horizons=2, period=5)
    params, state, _ = run(opt, PARAMS, 4)
    assert bool(nowcast.jumps_next(state))
    nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), GRADS)  # gradients are not read
    after, new, _ = run(opt, params, 1, state, nothing)
    assert_equal(new.inner, state.inner)
    assert not np.array_equal(after["w"], params["w"])


def test_resumes_within_a_window() -> None:
    """A state that went through bytes goes on as the one that never stopped."""
    opt = nowcast.nowcast(optax.adam(0.1), LINE, num_steps=40, period=10, horizons=(4, 3, 2))
    whole, _, _ = run(opt, PARAMS, 27)
    params, state, _ = run(opt, PARAMS, 17)
    stored = [np.asarray(x).copy() for x in jax.tree.leaves((params, state))]
    tree = jax.tree.structure((params, state))
    params, state = tree.unflatten([jnp.asarray(x) for x in stored])
    again, _, _ = run(opt, params, 10, state)
    assert_equal(again, whole)


@pytest.mark.parametrize("network", [LINE, nowcast.LAWA(), nowcast.WNN(hidden=4)], ids=lambda n: type(n).__name__)
def test_identical_states_stay(network: Any) -> None:
    """Whatever the network: where nothing moves, a jump moves nothing, not even in the last bit."""
    theta = weights(network)
    params = {"w": jax.random.normal(jax.random.key(1), (4, 3)) + 1e3, "b": jnp.full(3, 0.1)}
    opt = nowcast.nowcast(optax.sgd(0.1), network, theta, horizons=7, period=5)
    after, _, _ = run(opt, params, 11, grads=jax.tree.map(jnp.zeros_like, params))
    assert_equal(after, params)


def test_scan_and_vmap() -> None:
    """The same result, for several runs side by side too."""
    opt = nowcast.nowcast(optax.adam(0.1), LINE, num_steps=30, period=10, horizons=3)
    expected, _, _ = run(opt, PARAMS, 23)

    def train(params: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            updates, state = opt.update(GRADS, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, opt.init(params)), length=23)[0][0]

    two = jax.tree.map(lambda x: jnp.stack([x, x + 1.0]), PARAMS)
    found = jax.jit(jax.vmap(train))(two)
    for name in PARAMS:
        np.testing.assert_allclose(found[name][0], expected[name], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[name][1], expected[name] + 1.0, rtol=1e-5, atol=1e-5)


def test_history_is_sharded_like_the_parameters() -> None:
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    network = nowcast.WNN(hidden=2, edges=8)
    opt = nowcast.nowcast(optax.adam(0.1), network, WEIGHTS, num_steps=30, period=5, horizons=2)
    params = {"w": jax.random.normal(jax.random.key(1), (8, 4)), "b": jnp.ones(4)}
    expected, _, _ = run(opt, params, 7)
    sharding = {"w": NamedSharding(mesh, PartitionSpec("x")), "b": NamedSharding(mesh, PartitionSpec())}
    placed = jax.device_put(params, sharding)
    found, state, _ = run(opt, placed, 7)
    for tree in (*start(opt, placed).history, *state.history):
        assert tree["w"].sharding.is_equivalent_to(sharding["w"], 2)
    for name in params:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_history_in_host_memory() -> None:
    opt = lambda memory: nowcast.nowcast(optax.adam(0.1), LINE, num_steps=30, period=5, horizons=2, memory=memory)
    expected, _, _ = run(opt("device"), PARAMS, 12)
    found, state, _ = run(opt("host"), PARAMS, 12)
    assert_equal(found, expected)
    assert {x.sharding.memory_kind for x in jax.tree.leaves(state.history)} == {"pinned_host"}
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
    again, state, _ = run(opt("host"), found, 5, state=restored)
    assert {x.sharding.memory_kind for x in jax.tree.leaves(state.history)} == {"pinned_host"}
    assert_equal(again, run(opt("device"), PARAMS, 17)[0])


def test_donated_states() -> None:
    """A step that gives its buffers away; what the caller passed in stays."""
    num_steps = jnp.int32(30)
    opt = nowcast.nowcast(optax.adam(0.1), LINE, num_steps=num_steps, period=5, horizons=2)
    expected, _, _ = run(opt, PARAMS, 12)

    def step(params: Any, state: Any) -> Any:
        updates, state = opt.update(GRADS, state, params)
        return optax.apply_updates(params, updates), state

    step, params = jax.jit(step, donate_argnums=(0, 1)), jax.tree.map(jnp.array, PARAMS)
    state = opt.init(params)
    for _ in range(12):
        params, state = step(params, state)
    assert_equal(params, expected)
    assert int(num_steps) == 30
    assert int(start(opt, PARAMS).schedule.num_steps) == 30


def test_the_state_has_the_schedule() -> None:
    """A transform with other horizons and another length goes on as the stored schedule says; horizons of later windows
    are the last one."""
    make = lambda **options: nowcast.nowcast(optax.sgd(0.01), LINE, **options)
    state = make(period=10, horizons=(3, 2), num_steps=40).init(PARAMS)
    other = make(period=5, horizons=1)
    _, _, seen = run(other, PARAMS, 40, state)
    moved = np.array([float(PARAMS["s"] - p["s"]) / 0.01 for p in seen])
    want = [*range(1, 10), 15, *range(16, 25), 28, *range(29, 38), 41, *range(42, 52)]
    np.testing.assert_allclose(moved, want, rtol=1e-4)


def test_missing_leaves() -> None:
    """None among the parameters, as frozen parts of a model are."""
    opt = nowcast.nowcast(optax.sgd(0.01), nowcast.WNN(hidden=2), WEIGHTS, horizons=2, period=5)
    params = {"w": PARAMS["w"], "frozen": None}
    found, _, _ = run(opt, params, 6)
    assert found["frozen"] is None
    alone, _, _ = run(opt, {"w": PARAMS["w"]}, 6)
    assert_equal(found["w"], alone["w"])


@pytest.mark.parametrize("network", [LINE, nowcast.WNN(hidden=2), nowcast.NiNo(hidden=2)])
def test_an_array_alone_and_no_array(network: Any) -> None:
    opt = nowcast.nowcast(optax.sgd(0.1), network, network.init(jax.random.key(0)), horizons=2, period=5)
    found, _, seen = run(opt, PARAMS["w"], 6)
    assert not np.array_equal(found, seen[3])
    assert run(opt, {}, 6)[0] == {}


def test_bfloat16_parameters() -> None:
    """History in the dtype of the parameters; moves in that of the inner updates."""
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    opt = nowcast.nowcast(optax.sgd(0.1), LINE, horizons=2, period=5)
    found, state, seen = run(opt, params, 5)
    assert {x.dtype for x in jax.tree.leaves((found, state.history))} == {jnp.dtype(jnp.bfloat16)}
    assert float(found["s"]) < float(seen[3]["s"]) < float(params["s"])


def test_masked_on_either_side() -> None:
    """Parameters that the inner optimizer leaves alone stay; those outside of the wrapper are not its business."""
    mask = {"w": True, "b": False, "s": True}
    frozen = optax.chain(
        nowcast.nowcast(optax.masked(optax.sgd(0.1), mask), LINE, horizons=2, period=5),
        optax.masked(optax.set_to_zero(), jax.tree.map(lambda x: not x, mask)),
    )
    found, _, _ = run(frozen, PARAMS, 7)
    assert_equal(found["b"], PARAMS["b"])
    inner = nowcast.nowcast(optax.sgd(0.1), nowcast.WNN(hidden=2), WEIGHTS, horizons=2, period=5)
    found, _, _ = run(
        optax.chain(
            optax.masked(inner, mask), optax.masked(optax.scale(-1.0), {**mask, "w": False, "b": True, "s": False})
        ),
        PARAMS,
        7,
    )
    np.testing.assert_allclose(found["b"], PARAMS["b"] - 7.0)
    assert not np.array_equal(found["w"], PARAMS["w"])


def test_acceptance() -> None:
    """A rule that sees history, prediction and horizon makes as much of a jump as it says."""
    seen = []

    def half(history: Any, predicted: Any, k: Any) -> float:
        seen.append((len(history), jax.tree.structure(predicted), k.shape))
        return 0.5

    whole = nowcast.nowcast(optax.sgd(0.1), LINE, horizons=4, period=5)
    damped = nowcast.nowcast(optax.sgd(0.1), LINE, horizons=4, period=5, accept=half)
    (_, _, a), (_, _, b) = run(whole, PARAMS, 5), run(damped, PARAMS, 5)
    move = lambda seen: seen[4]["w"] - seen[3]["w"]
    np.testing.assert_allclose(move(b), move(a) / 2, rtol=1e-5)
    assert seen[0] == (5, jax.tree.structure(PARAMS), ())


def test_predictions_that_are_not_finite_are_not_taken() -> None:
    theta = jax.tree.map(lambda x: x * np.nan, WEIGHTS)
    opt = nowcast.nowcast(optax.sgd(0.1), nowcast.WNN(hidden=2), theta, horizons=2, period=5)
    found, _, seen = run(opt, PARAMS, 6)
    assert_equal(seen[4], seen[3])
    np.testing.assert_allclose(found["b"], PARAMS["b"] - 0.5, rtol=1e-6)


def test_what_it_passes_on() -> None:
    """The loss reaches an optimizer inside that wants it."""
    scale = lambda updates, state, params=None, **extra: (jax.tree.map(lambda g: -extra["value"] * g, updates), state)
    inner = optax.GradientTransformationExtraArgs(lambda params: (), scale)
    opt = nowcast.nowcast(inner, LINE, num_steps=20, period=5, horizons=2)
    updates, _ = jax.jit(opt.update)(GRADS, opt.init(PARAMS), PARAMS, value=jnp.float32(3.0))
    np.testing.assert_array_equal(updates["b"], [-3.0, -3.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 4, "horizons": 1}, r"period is 4: .* at least the 5 states"),
        ({}, r"horizons is None, and num_steps None or an array"),
        ({"num_steps": jnp.int32(10)}, r"horizons is None, and num_steps None or an array"),
        ({"horizons": 0}, r"horizon 0: expected a whole number of spacings from 1$"),
        ({"horizons": ()}, r"horizons are empty"),
        ({"horizons": 41, "network": nowcast.WNN(hidden=2)}, r"horizon 41: .* from 1 to 40, which WNN predicts"),
        ({"horizons": 1, "num_steps": 0}, r"num_steps is 0"),
        ({"horizons": 1, "memory": "disk"}, r"memory is 'disk'"),
        ({"horizons": 1, "network": nowcast.WNN(hidden=2), "theta": ()}, r"theta is not of network WNN.*kinds"),
        ({"horizons": 1, "theta": {"w": jnp.ones(2)}}, r"theta is not of network LineFit.*'w'"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    network = options.pop("network", LINE)
    theta = options.pop("theta", network.init(jax.random.key(0)))
    with pytest.raises(InputError, match=message):
        nowcast.nowcast(optax.sgd(0.1), network, theta, **options)


def test_parameters_that_do_not_fit() -> None:
    opt = nowcast.nowcast(optax.sgd(0.1), LINE, horizons=1, wiring=nowcast.unconnected(PARAMS))
    with pytest.raises(InputError, match=r"parameter 'x' is on no wire|'b'.*no such path"):
        opt.init({"x": jnp.ones(3)})
    with pytest.raises(InputError, match=r"'x'.* has dtype int32"):
        opt.init({"x": jnp.ones(3, jnp.int32)})
    state = opt.init(PARAMS)
    with pytest.raises(ValueError, match="params is None"):
        opt.update(GRADS, state)
