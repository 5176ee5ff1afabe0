"""What helm's expert hears, each unit in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import eigenbasis
from learned_opt.errors import InputError

RULE = learned_opt.Helm()


def last_steps(theta, gradients, params, values, num_steps=1000):
    """The last of the steps with these gradients and losses, at parameters that stay."""
    opt = RULE.transform(theta, num_steps=num_steps)
    one = lambda state, seen: opt.update(seen[0], state, params, value=seen[1])[::-1]
    run = jax.jit(lambda: jax.lax.scan(one, opt.init(params), (gradients, jnp.asarray(values)))[1])
    return jax.tree.map(lambda x: x[-1], run())


def last_step(theta, gradients, params, values):
    """That of a single tensor."""
    return last_steps(theta, {"w": gradients}, params, values)["w"]


def without_decay(theta):
    return theta._replace(mix=theta.mix._replace(b=theta.mix.b.at[7].set(0.0)), out=theta.out.at[:, 9].set(0.0))


ALTERNATE = np.where(np.indices((100, 8, 8)).sum(0) % 2, 1.0, -1.0).astype(np.float32)
"""A chessboard whose colours change at every step, orthogonal to ones."""


def test_steps_shrink_where_gradients_contradict_each_other_unless_longer_weights_would_gain():
    """Agreement is -1, corrected for its age, and G is 1 - 0.98^100 of the share that each step says."""
    theta, params, loss = without_decay(RULE.expert(jax.random.key(3))), {"w": jnp.ones((8, 8))}, 0.0016
    plain = 0.02 * (1.0 - 99 / 1000 + 0.001)
    for share in (-0.5, 0.0, 0.1, 0.2, 1.0):
        step = last_step(theta, jnp.asarray(ALTERNATE - share * 4 * loss / 64), params, np.full(100, loss, np.float32))
        heard = 3.0 * max(share, 0.0) * (1.0 - 0.98**100)
        shorter = 4.0 * max(0.75 - heard, 0.0) + 4.0 * max(0.9 - heard, 0.0)
        assert np.sqrt(np.mean(step**2)) == pytest.approx(plain * np.exp(-shorter), rel=0.02), share


def test_a_falling_loss_relieves_a_little():
    """Of two losses the falling one, by half of a percent a step, with (f_1 + … + f_5) / 20."""
    theta, params, t = RULE.expert(jax.random.key(3)), {"w": jnp.ones((8, 8))}, np.arange(100, dtype=np.float32)
    sizes = [jnp.sqrt(jnp.mean(last_step(theta, ALTERNATE, params, np.exp(-rate * t)) ** 2)) for rate in (0.0, 0.005)]
    ages = [np.average(t, weights=np.exp(-t / h)) for h in np.geomspace(10, 1000, 10)[[1, 6]]]
    assert sizes[1] / sizes[0] == pytest.approx(np.exp(4.0 * 0.005 * (ages[1] - ages[0]) / 20), rel=1e-3)


def tangent(p, seed, steps):
    """Noise orthogonal to p, and what must be added to it for gradients that gain 1 from a longer p."""
    inward = (p / jnp.sum(p**2))[None]
    noise = jax.random.normal(jax.random.key(seed), (steps, *p.shape))
    return noise - jnp.sum(noise * p[None], (1, 2), keepdims=True) * inward, -inward


def decay(theta, gradients, params, num_steps):
    """Of every tensor, in steps."""
    n = len(jax.tree.leaves(gradients)[0])
    bare, step = (
        last_steps(x, gradients, params, np.ones(n, np.float32), num_steps) for x in (without_decay(theta), theta)
    )
    rms = lambda x: jnp.sqrt(jnp.mean(x**2))
    return jax.tree.map(lambda b, s, p: (b - s) / rms(b) / p * rms(p), bare, step, params)


def test_what_is_learned_by_heart_decays():
    """G is 1 - 0.98^t of what one step says, at most 1; above 0.5 half of the rest is decay beside the other 0.05."""
    theta, n = RULE.expert(jax.random.key(3)), 200
    theta = theta._replace(out=theta.out.at[6:].set(0.0))  # not what comes late
    params = {"w": 0.1 + jax.random.normal(jax.random.key(0), (8, 8))}
    noise, gain = tangent(params["w"], 1, n)
    for says in (-8.0, 1.0, 3.0, 40.0):
        G = np.clip(says / 4.0, -1.0, 1.0) * (1.0 - 0.98**n)
        found = decay(theta, {"w": noise + says * gain}, params, 1000)
        np.testing.assert_allclose(found["w"], 0.05 + 0.5 * max(G - 0.5, 0.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("says", "num_steps", "n", "limit"),
    [
        (0.05, 400, 200, "gain"),
        (0.3, 1000, 200, "noise"),
        (0.3, 8000, 200, "none"),
        (3.0, 210, 200, "most"),
        (-1.0, 210, 200, "none"),
        (3.0, 1000, 10, "none"),
    ],
)
def test_late_in_a_run_what_noise_lengthens_decays(says, num_steps, n, limit):
    """The smaller of 20 mean(G+) and what time and noise say, times 0.35; 0.3 at most."""
    theta = RULE.expert(jax.random.key(3))
    params = {"a": 0.1 + jax.random.normal(jax.random.key(0), (8, 8)), "b": jnp.ones((5, 7))}
    noise, gain = tangent(params["a"], 1, n)
    gradients = {"a": noise + says * gain, "b": 1.5 * tangent(params["b"], 2, n)[0]}
    m, r, logs = 0.9 ** np.arange(n)[::-1], 0.99 ** np.arange(n)[::-1], []
    for g in gradients.values():
        M, R = np.average(g, axis=0, weights=m), np.average(np.square(g), axis=0, weights=r)
        logs.append(np.log(np.mean(M**2 / (R + 1e-10 * np.mean(R)))))
    G = np.clip(says / 4.0, 0.0, 1.0) * (1.0 - 0.98**n)
    time = max((n - 1) / num_steps + np.mean(logs) + 2.9 - 0.15 * np.log(num_steps / 1000) - 3 * np.exp(-n / 10), 0.0)
    added = 0.35 * min(20 * G / 2, time)
    expected = min(0.05 + 0.5 * max(G - 0.5, 0.0) + added, 0.3)
    bound = {"gain": 0 < 10 * G < time, "noise": 0 < time < 10 * G, "none": added == 0, "most": expected == 0.3}
    assert bound[limit]
    found = decay(theta, gradients, params, num_steps)
    np.testing.assert_allclose(found["a"], expected, rtol=2e-3)
    np.testing.assert_allclose(found["b"], min(0.05 + added, 0.3), rtol=2e-3)


def test_decay_is_between_zero_and_its_most():
    theta, g = RULE.init(jax.random.key(3)), jax.random.normal(jax.random.key(0), (2, 5, 4))
    params = {"w": jnp.ones((5, 4))}
    to = lambda x: theta._replace(mix=theta.mix._replace(b=theta.mix.b.at[7].set(x)))
    of = {x: last_step(to(x), g, params, np.ones(2, np.float32)) for x in (-1.0, 0.0, 0.3, 5.0)}
    np.testing.assert_array_equal(of[-1.0], of[0.0])
    np.testing.assert_array_equal(of[5.0], of[0.3])
    assert np.all(of[0.3] < of[0.0])


@pytest.mark.parametrize(("weight", "share"), [(0.0, 0.0), (5 / 9, 0.5), (5.0, 1.0)])
def test_the_eigenbasis_has_a_share_where_gradients_contradict_each_other(weight, share):
    """Agreement is -1. Entries of a gradient that changes its sign become signs, and singular values there one."""
    expert = RULE.expert(jax.random.key(3))
    assert expert.out[5, 10] == 5.0
    theta = without_decay(expert)._replace(out=without_decay(expert).out.at[5, 10].set(weight))
    u, w = (np.linalg.qr(np.random.default_rng(i).normal(size=(6, 6)))[0] for i in (2, 3))
    g = ((u * 2.0 ** -np.arange(6.0)) @ w.T).astype(np.float32)
    gradients = g * (-1.0) ** np.arange(300, dtype=np.float32)[:, None, None]
    step = last_step(theta, gradients, {"w": jnp.ones((6, 6))}, np.ones(300, np.float32))
    unit = lambda x: x / np.linalg.norm(x)
    of = lambda s: unit((1.0 - s) * unit(np.sign(g)) + s * unit(u @ w.T))
    polar = lambda x: unit(np.linalg.svd(x)[0] @ np.linalg.svd(x)[2])
    # The iteration leaves singular values between 0.7 and 1.2.
    found = [float(np.sum(unit(step) * polar(of(s)))) for s in (0.0, 0.5, 1.0)]
    assert max(found) == found[round(2 * share)] > 0.97
    assert sorted(found)[1] < 0.965


def test_what_is_divided_in_the_eigenbasis():
    """The mixture of the gradient and its averages, each by its own output, after two that are not alike."""
    gradients = jax.random.normal(jax.random.key(0), (2, 5, 4))
    mixture = (0.3, 0.5, -0.7, 0.2)

    def step(share):
        start = RULE.init(jax.random.key(3))
        b = jnp.array([*mixture, 0.0, 0.0, 0.0, 0.0, share], jnp.float32)
        return last_step(start._replace(mix=start.mix._replace(b=b)), gradients, {"w": jnp.ones((5, 4))}, np.ones(2))

    state = eigenbasis.init(jnp.zeros((5, 4)))
    for g in gradients:
        state = eigenbasis.update(state, g)
    averages = [((1 - d) * (d * gradients[0] + gradients[1])) / (1 - d**2) for d in (0.9, 0.99, 0.999)]
    N = sum(o * x for o, x in zip(mixture, (gradients[1], *averages), strict=True))
    expected = eigenbasis.precondition(state, N, jnp.asarray(1))
    unit = lambda x: np.asarray(x) / np.linalg.norm(x)
    np.testing.assert_allclose(unit(-step(1.0)), unit(expected), atol=2e-4)
    np.testing.assert_allclose(unit(-step(0.5)), unit(unit(-step(0.0)) + unit(expected)), atol=2e-4)
    np.testing.assert_array_equal(step(-1.0), step(0.0))
    np.testing.assert_array_equal(step(2.0), step(1.0))


def test_an_expert_needs_its_units():
    with pytest.raises(InputError, match="setting hidden is 7: expected at least 8"):
        learned_opt.Helm(hidden=7).expert(jax.random.key(0))


@pytest.mark.parametrize("silent", [0.0, jnp.inf, jnp.nan])
def test_a_loss_that_says_nothing_leaves_what_was_heard(silent):
    """Where every example of a batch is learned to rounding, and where a loss overflows."""
    opt = RULE.transform(RULE.expert(jax.random.key(3)), num_steps=1000)
    params = {"w": jnp.ones((4, 4))}
    state = opt.init(params)
    _, state = opt.update({"w": -jnp.ones((4, 4))}, state, params, value=1.0)
    _, after = opt.update({"w": -jnp.ones((4, 4))}, state, params, value=silent)
    assert state.growth == pytest.approx(0.02)
    np.testing.assert_array_equal(after.growth, state.growth)


def test_steps_shrink_where_the_loss_has_fallen_far():
    theta, p = without_decay(RULE.expert(jax.random.key(3))), {"w": jnp.ones((8, 8))}
    t = np.arange(400, dtype=np.float32)
    g = jax.random.normal(jax.random.key(0), (800, 8, 8))[:400]
    size = lambda rate: float(jnp.sqrt(jnp.mean(last_step(theta, g, p, np.exp(-rate * t)) ** 2)))
    sizes = {rate: size(rate) for rate in (0.0, 0.001, 0.01)}
    assert sizes[0.001] == pytest.approx(sizes[0.0], rel=0.02)  # less than a factor of e is no long fall
    # f_3 + … + f_8 is the fall between the mean ages of the averages with half-lives 10^(1 + 2 / 3) and 1,000.
    ages = [np.average(np.arange(400), weights=np.exp(-np.arange(400) / h)) for h in (10 ** (5 / 3), 1000)]
    assert sizes[0.01] == pytest.approx(sizes[0.0] * np.exp(-0.5 * (0.01 * (ages[1] - ages[0]) - 1.0)), rel=0.01)
