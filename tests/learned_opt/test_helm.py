"""Helm: its first step in closed form, and the units that it must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.pretrained import load_pretrained

RULE = learned_opt.Helm()
STEPS = 60


def parameters():
    keys = jax.random.split(jax.random.key(0), 2)
    return {"w": jax.random.normal(keys[0], (6, 4)), "b": jnp.zeros((4,)), "gain": jax.random.normal(keys[1], ())}


def loss(p):
    """A curved valley with its minimum, 1, away from the start."""
    x = jnp.tanh(jnp.arange(18.0).reshape(3, 6) @ p["w"] / 8.0 + p["b"][None]) * p["gain"]
    return 1.0 + jnp.mean((x - 0.4) ** 2)


def weights(seed=1):
    """A theta that uses all its inputs."""
    leaves, tree = jax.tree.flatten(RULE.expert(jax.random.key(0)))
    random = np.random.default_rng(seed)
    return tree.unflatten([x + 0.05 * random.normal(size=x.shape).astype(np.float32) for x in leaves])


def train(theta, scales, factor=1.0):
    """Losses of a run whose parameters are `scales` times as large, and whose loss is `factor` times as large."""
    opt = RULE.transform(theta, num_steps=STEPS)
    start = jax.tree.map(jnp.multiply, parameters(), scales)

    def step(carry, _):
        p, state = carry
        f = lambda p: factor * loss(jax.tree.map(jnp.divide, p, scales))
        value, gradient = jax.value_and_grad(f)(p)
        updates, state = opt.update(gradient, state, p, value=value)
        return (optax.apply_updates(p, updates), state), value / factor

    return jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), None, STEPS)[1])()


def test_the_first_step_of_the_expert():
    """t = 0: every direction is sign(g), of a matrix its singular values made equal, at a known size, and decay."""
    params = parameters()
    value, gradient = loss(params), jax.grad(loss)(params)
    gradient["w"] = jax.random.normal(jax.random.key(5), (6, 4))  # a matrix of full rank
    opt = RULE.transform(RULE.expert(jax.random.key(3)), num_steps=STEPS)
    steps, _ = opt.update(gradient, opt.init(params), params, value=value)
    schedule = 1.001 / (1 + 0.02 * STEPS)
    typical = np.sqrt(6 * np.mean(params["w"] ** 2))
    # Of one gradient S_0 is 1 and G a fiftieth of what it says.
    gains = [np.clip(-jnp.sum(gradient[k] * params[k]) / (4 * value), 0.0, 1.0) / 50 for k in params]
    time = 2.9 - 0.15 * np.log(STEPS / 1000) - 3.0 * np.exp(-0.1)
    share = 0.05 + 0.35 * min(20 * np.mean(gains), time)
    assert 0.05 < share < 0.3
    for name, p in params.items():
        unit = float(value) / (p.size * np.sqrt(np.mean(gradient[name] ** 2)))
        zero = min(0.3 * typical / np.sqrt(6 if p.ndim == 2 else 1), 0.1 * unit)
        size = (
            0.02 * np.sqrt(1000 / STEPS) * (1.0 if p.ndim == 2 else 0.6) * schedule * np.sqrt(np.mean(p**2) + zero**2)
        )
        decay = share * size * p / max(np.sqrt(np.mean(p**2)), 1e-12)
        direction = -(steps[name] + decay)
        if p.ndim == 2:
            assert np.sqrt(np.mean(direction**2)) == pytest.approx(size, rel=1e-3)
            u, _, vt = np.linalg.svd(np.sign(gradient[name]), full_matrices=False)
            # The iteration leaves singular values between 0.7 and 1.2.
            assert np.sum(direction * (u @ vt)) > 0.95 * np.linalg.norm(direction) * np.linalg.norm(u @ vt)
        else:
            np.testing.assert_allclose(direction, size * np.sign(gradient[name]), rtol=1e-4)


@pytest.mark.parametrize("theta", [RULE.expert(jax.random.key(3)), weights()], ids=["expert", "random"])
def test_units_do_not_matter(theta):
    """Neither those of a tensor nor that of the loss."""
    ones = {"w": 1.0, "b": 1.0, "gain": 1.0}
    expected = train(theta, ones)
    np.testing.assert_allclose(train(theta, {"w": 100.0, "b": 0.01, "gain": 30.0}), expected, rtol=1e-3)
    np.testing.assert_allclose(train(theta, ones, factor=1000.0), expected, rtol=1e-3)
    assert expected[-1] < expected[0]


def test_the_release_has_the_weights_of_the_expert():
    released = load_pretrained("helm").theta
    expert = RULE.expert(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), released, expert)


def test_the_expert_trains():
    losses = train(RULE.expert(jax.random.key(3)), {"w": 1.0, "b": 1.0, "gain": 1.0})
    assert losses[-1] - 1.0 < 0.2 * (losses[0] - 1.0)


def fit(loss, params, steps):
    """The parameters after so many steps of the expert."""
    opt = RULE.transform(RULE.expert(jax.random.key(3)), num_steps=steps)

    def step(carry, _):
        p, state = carry
        value, gradient = jax.value_and_grad(loss)(p)
        updates, state = opt.update(gradient, state, p, value=value)
        return (optax.apply_updates(p, updates), state), None

    return jax.jit(lambda: jax.lax.scan(step, (params, opt.init(params)), None, steps)[0][0])()


@pytest.mark.parametrize("matrix", [True, False], ids=["matrix", "vector"])
def test_a_linear_model_that_starts_at_zero_is_fitted(matrix):
    """Where nothing has a size, steps have that of usual initialisations, within reach of the loss; see `origin`."""
    x = jax.random.normal(jax.random.key(1), (200, 5))
    known = {"w": jnp.arange(1.0, 6.0).reshape((5, 1) if matrix else (5,)), "b": jnp.float32(10.0)}
    predict = lambda p: (x @ p["w"]).reshape(-1) + p["b"]
    found = fit(lambda p: jnp.mean((predict(p) - predict(known)) ** 2), jax.tree.map(jnp.zeros_like, known), 1000)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02), found, known)


def test_a_scalar_crosses_zero():
    found = fit(lambda p: (p["a"] - 3.0) ** 2, {"a": jnp.float32(-3.0)}, 1000)
    assert found["a"] == pytest.approx(3.0, abs=0.01)


def test_a_loss_of_zero_at_the_start_says_no_distance():
    """As a policy gradient's surrogate, whose value is nothing and whose gradient is all."""
    surrogate = lambda p: jnp.sum((p["a"] - jax.lax.stop_gradient(p["a"])) * (jax.lax.stop_gradient(p["a"]) - 1.0))
    found = fit(surrogate, {"a": jnp.zeros((3,))}, 1000)
    np.testing.assert_allclose(found["a"], 1.0, atol=0.01)


@pytest.mark.parametrize("first", [0.0, -1e-8], ids=str)
def test_a_loss_that_is_no_distance_freezes_nothing(first):
    """A bias that starts at zero beside a matrix, and a loss of nothing while there is a gradient."""
    opt = RULE.transform(RULE.expert(jax.random.key(3)), num_steps=300)
    start = {"w": jax.random.normal(jax.random.key(0), (6, 4)), "b": jnp.zeros((4,))}
    x = jax.random.normal(jax.random.key(1), (32, 6))
    of = lambda p: jnp.mean((x @ p["w"] + p["b"][None] - 1.0) ** 2)

    def step(carry, t):
        p, state = carry
        value, gradient = jax.value_and_grad(of)(p)
        updates, state = opt.update(gradient, state, p, value=jnp.where(t == 0, first, value))
        return (optax.apply_updates(p, updates), state), value

    (p, _), losses = jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), jnp.arange(300)))()
    np.testing.assert_allclose(p["b"], 1.0, atol=0.05)
    assert losses[-1] < 0.01


@pytest.mark.parametrize(
    ("losses", "signed"), [((1.0, 0.0), False), ((1.0, -1e-3), True), ((0.0, 1.0), True), ((1.0, 2.0), False)], ids=str
)
def test_a_loss_that_rounds_to_zero_is_still_a_distance(losses, signed):
    """A cross entropy in float32 is 0 before its gradient is."""
    params = parameters()
    opt = RULE.transform(RULE.expert(jax.random.key(3)), num_steps=10)
    state = opt.init(params)
    for value in losses:
        before = state.unit
        _, state = opt.update(jax.tree.map(lambda p: 1e-3 * jnp.ones_like(p), params), state, params, value=value)
    assert bool(state.signed) == signed
    if losses == (1.0, 0.0):
        np.testing.assert_array_equal(state.unit, before)


def test_a_batch_that_says_nothing_freezes_nothing():
    """Rare events: most batches have neither a loss nor a gradient, and the last layer starts at zero."""
    opt = RULE.transform(RULE.expert(jax.random.key(3)), num_steps=400)
    start = {"in": jax.random.normal(jax.random.key(0), (6, 16)) / 2.0, "out": jnp.zeros((16, 1))}
    x = jax.random.normal(jax.random.key(1), (32, 6))
    of = lambda p, there: there * jnp.mean((jnp.tanh(x @ p["in"]) @ p["out"] - x[:, :1]) ** 2)

    def step(carry, t):
        p, state = carry
        value, gradient = jax.value_and_grad(of)(p, jnp.float32(t % 4 == 0))
        updates, state = opt.update(gradient, state, p, value=value)
        return (optax.apply_updates(p, updates), state), None

    (p, _), _ = jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), jnp.arange(400)))()
    assert of(p, 1.0) < 0.05 * of(start, 1.0)


def test_raw_features_are_fitted():
    """Logistic regression on features of 0.01 to 100 from zeros, where steps of one size overshoot."""
    x = jax.random.normal(jax.random.key(0), (200, 5)) * 10.0 ** jnp.arange(-2.0, 3.0)[None]
    label = (x[:, 0] * 100.0 + x[:, 2] + x[:, 4] / 100.0 > 0).astype(jnp.int32)
    of = lambda p: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x @ p["w"], label))
    assert of(fit(of, {"w": jnp.zeros((5, 2))}, 500)) < 0.32


def test_a_negative_log_likelihood_goes_below_zero():
    """It is positive at first, and nothing may hold it where it crosses."""
    x = 0.01 * jax.random.normal(jax.random.key(0), (100,))
    of = lambda p: 0.5 * jnp.mean(x**2) * jnp.exp(-2.0 * p["log"]) + p["log"]
    found = fit(of, {"log": jnp.zeros(())}, 1000)
    assert found["log"] == pytest.approx(0.5 * np.log(np.mean(np.square(x))), abs=0.02)


def test_steps_grow_while_gradients_agree():
    """A gradient that never changes: after 21 updates the average over 50 is 0.98-averaged ones, the first A is 0."""
    params, t = {"w": jax.random.normal(jax.random.key(0), (6, 4))}, 20
    sizes = []
    for faster in (4.0, 0.0):
        theta = RULE.expert(jax.random.key(3))
        opt = RULE.transform(theta._replace(out=theta.out.at[0, 1].set(faster)), num_steps=1000)
        state = opt.init(params)
        for _ in range(t + 1):
            steps, state = opt.update({"w": jnp.ones((6, 4))}, state, params, value=1.0)
        sizes.append(float(jnp.sqrt(jnp.mean(steps["w"] ** 2))))
    agreement = (1 - 0.98**t) / (1 - 0.98 ** (t + 1))
    assert sizes[0] / sizes[1] == pytest.approx(np.exp(4.0 * (agreement - 0.2)), rel=1e-3)


def test_a_target_far_from_the_start_is_reached():
    """A bias of 1,000 in as many steps, of a regression that starts at zero; tuned Adam gets nowhere near."""
    x = jax.random.normal(jax.random.key(1), (200, 5))
    known = {"w": jnp.arange(1.0, 6.0), "b": jnp.float32(1000.0)}
    predict = lambda p: x @ p["w"] + p["b"]
    found = fit(lambda p: jnp.mean((predict(p) - predict(known)) ** 2), jax.tree.map(jnp.zeros_like, known), 1000)
    assert found["b"] == pytest.approx(1000.0, abs=1.0)


def test_what_the_loss_does_not_depend_on_stays():
    """Decay as well waits for a gradient."""
    start = {"w": jnp.ones((4, 3)), "unused": jnp.ones((4, 3)), "gain": jnp.ones((3,))}
    found = fit(lambda p: jnp.mean((p["w"] - 3.0) ** 2), start, 50)
    assert not np.array_equal(found["w"], start["w"])
    np.testing.assert_array_equal(found["unused"], start["unused"])
    np.testing.assert_array_equal(found["gain"], start["gain"])
