"""The optimizers that optax lacks, against their equations written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.evaluate.transforms.cautious import cautious
from meta_train.evaluate.transforms.laprop import scale_by_laprop
from meta_train.evaluate.transforms.lookahead import lookahead, slow_params
from meta_train.evaluate.transforms.mars import scale_by_mars
from meta_train.evaluate.transforms.scalars import scalars_as_vectors
from meta_train.evaluate.transforms.soap import gram, orthogonal_factor, rotate, scale_by_soap

RNG = np.random.default_rng(0)
GRADIENTS = [{"w": RNG.normal(size=(4, 3)), "b": RNG.normal(size=3)} for _ in range(4)]
PARAMS = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}


def directions(transform, gradients=GRADIENTS, params=PARAMS):
    params = jax.tree.map(jnp.float32, params)
    state, found = transform.init(params), []
    for g in gradients:
        u, state = transform.update(jax.tree.map(jnp.float32, g), state, params)
        found.append(u)
    return found


def agree(found, expected, rtol=2e-5):
    for u, e in zip(found, expected, strict=True):
        jax.tree.map(lambda u, e: np.testing.assert_allclose(u, e, rtol=rtol, atol=1e-6), u, e)


def test_laprop():
    """Two steps by hand: n_1 = 0.001 g^2 corrects to g^2, so that u_1 is the sign of the gradient."""
    g, h = (x["b"] for x in GRADIENTS[:2])
    second = h / np.sqrt((0.999 * g**2 + h**2) / 1.999)
    u = directions(scale_by_laprop())
    agree([u[0]["b"], u[1]["b"]], [np.sign(g), (0.9 * np.sign(g) + second) / 1.9])


def test_laprop_rests_where_there_is_no_gradient():
    assert (directions(scale_by_laprop(), [{"b": np.zeros(3)}], {"b": np.ones(3)})[0]["b"] == 0).all()


def test_cautious():
    """Of four entries the first two agree with the gradient: they are scaled by 4 / (2 + 1), the others rest."""
    momentum = optax.trace(decay=0.9)
    first, second = np.array([1.0, -2.0, 3.0, -4.0]), np.array([0.5, -0.5, -1.0, 1.0])
    u = directions(cautious(momentum), [{"b": first}, {"b": second}], {"b": np.ones(4)})
    agree([u[0]["b"]], [first * 4 / 5])
    agree([u[1]["b"]], [(0.9 * first + second) * np.array([1, 1, 0, 0]) * 4 / 3])


def test_mars():
    """The equations for one vector and one matrix, one of which is clipped."""
    b1, b2, gamma = 0.95, 0.99, 0.025
    m, v, expected = {k: 0.0 for k in PARAMS}, {k: 0.0 for k in PARAMS}, []
    gradients = [{"w": g["w"], "b": 0.1 * g["b"]} for g in GRADIENTS]
    for t, g in enumerate(gradients, 1):
        u = {}
        for k in PARAMS:
            last = g[k] if t == 1 else gradients[t - 2][k]
            c = g[k] + gamma * b1 / (1 - b1) * (g[k] - last)
            c = c / np.linalg.norm(c) if np.linalg.norm(c) > 1 else c
            m[k], v[k] = b1 * m[k] + (1 - b1) * c, b2 * v[k] + (1 - b2) * c**2
            u[k] = m[k] / (1 - b1**t) / (np.sqrt(v[k] / (1 - b2**t)) + 1e-8)
        expected.append(u)
    agree(directions(scale_by_mars(), gradients), expected)


def soap(gradients, every, b=0.95):
    """Directions for a matrix, from the equations."""
    g = gradients[0]
    l, r = (1 - b) * g @ g.T, (1 - b) * g.T @ g
    ql, qr = np.eye(len(l)), np.eye(len(r))
    for _ in range(10):
        ql, qr = np.linalg.qr(l @ ql)[0], np.linalg.qr(r @ qr)[0]
    m, v, found = np.zeros_like(g), np.zeros_like(g), [np.zeros_like(g)]
    for t, g in enumerate(gradients[1:], 1):
        m = b * m + (1 - b) * g
        v = b * v + (1 - b) * (ql.T @ g @ qr) ** 2
        n = (ql.T @ m @ qr) / (1 - b**t) / (np.sqrt(v / (1 - b**t)) + 1e-8)
        found.append(ql @ n @ qr.T)
        l, r = b * l + (1 - b) * g @ g.T, b * r + (1 - b) * g.T @ g
        if t % every == 0:
            ql, qr = np.linalg.qr(l @ ql)[0], np.linalg.qr(r @ qr)[0]
    return found


def full_rank(step):
    """A square gradient whose factors have distinct eigenvalues, so that their eigenvectors are defined."""
    rng = np.random.default_rng(step)
    return rng.normal(size=(3, 3)) + np.diag([3.0, 1.0, 0.3])


@pytest.mark.parametrize("every", [1, 2])
def test_soap(every):
    gradients = [full_rank(i) for i in range(5)]
    u = directions(scale_by_soap(every=every), [{"w": g} for g in gradients], {"w": np.ones((3, 3))})
    agree([x["w"] for x in u], soap(gradients, every), rtol=1e-3)


def test_soap_of_vectors_scalars_and_long_axes_is_adam_from_the_second_gradient_on():
    params = {"b": np.ones(3), "s": np.ones(()), "w": np.ones((4, 3))}
    gradients = [g | {"s": np.float32(i + 1)} for i, g in enumerate(GRADIENTS)]
    u = directions(scale_by_soap(longest=2), gradients, params)
    adam = directions(optax.scale_by_adam(0.95, 0.95), gradients[1:], params)
    agree(u[:1], [jax.tree.map(np.zeros_like, params)])
    agree(u[1:], adam, rtol=1e-4)


def test_the_first_bases_of_soap_are_eigenvectors():
    g = full_rank(0)
    _, state = scale_by_soap().update({"w": jnp.float32(g)}, scale_by_soap().init({"w": jnp.ones((3, 3))}))
    (left, _), (l, _) = state.bases[0], state.factors[0]
    rotated = np.asarray(left.T @ l @ left)
    np.testing.assert_allclose(rotated, np.diag(np.linalg.eigvalsh(l)[::-1]), atol=0.01 * rotated.max())


@pytest.mark.parametrize("rank", [5, 2, 0])
def test_orthogonal_factor(rank):
    """Of the first columns it is that of LAPACK up to signs, and orthogonal whatever the rank."""
    x = np.float32(1e-12) * np.float32(RNG.normal(size=(5, rank)) @ RNG.normal(size=(rank, 5)))
    q = np.asarray(orthogonal_factor(jnp.array(x)))
    np.testing.assert_allclose(q.T @ q, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(np.abs(q.T @ np.linalg.qr(x)[0])[:rank, :rank], np.eye(rank), atol=1e-3)


def test_rotation_and_factors_of_three_axes():
    x, q = jnp.array(RNG.normal(size=(2, 3, 4))), jnp.array(RNG.normal(size=(3, 3)))
    np.testing.assert_allclose(rotate(x, (None, q, None)), np.einsum("ijk,jl->ilk", x, q), rtol=1e-5)
    np.testing.assert_allclose(gram(x, 1), np.einsum("ijk,ilk->jl", x, x), rtol=1e-5)


def test_lookahead():
    """k = 2, alpha = 1/2, rate 1: theta 0 -> -1 -> -3, slow halfway: -1.5; then -1.5 -> -4.5 with slow at -1.5."""
    opt = lookahead(optax.sgd(1.0), k=2, alpha=0.5)
    params = {"x": jnp.zeros(())}
    state = opt.init(params)
    path = []
    for g in (1.0, 2.0, 3.0):
        updates, state = opt.update({"x": jnp.float32(g)}, state, params)
        params = optax.apply_updates(params, updates)
        path.append((float(params["x"]), float(slow_params(state, params)["x"])))
    assert path == [(-1.0, 0.0), (-1.5, -1.5), (-4.5, -1.5)]


def test_scalars_as_vectors():
    """SM3 of a scalar is Adagrad with momentum: g / sqrt(sum of squares), averaged."""
    u = directions(scalars_as_vectors(optax.scale_by_sm3()), [{"s": np.float32(2.0)}] * 2, {"s": np.ones(())})
    agree([x["s"] for x in u], [0.1, 0.09 + 0.1 / np.sqrt(2)], rtol=1e-4)
