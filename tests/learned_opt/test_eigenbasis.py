"""The eigenbasis of gradients: closed forms, and which sides have one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import eigenbasis

STEPS = 500
SHAPES = [(5, 5), (4, 12), (12, 4)]


def orthogonal(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


@jax.jit
def after(gradients, basis=None):
    """The state after these gradients, from this basis."""
    step = lambda state, g: (eigenbasis.update(state, g), None)
    start = eigenbasis.init(gradients[0])
    start = start._replace(basis=basis or start.basis)
    return jax.lax.scan(step, start, gradients)[0]


@jax.jit
def preconditioned(state, x):
    return eigenbasis.precondition(state, x, jnp.asarray(STEPS - 1))


def aligned(n, k):
    """U, W and random D_t of which D_t D_t^T and D_t^T D_t are diagonal: U and W are the bases of the U D_t W^T.

    Either is the identity if its side has no basis. The sizes of rows and of columns are different and in no order.
    """
    u, w = (orthogonal(m, m) if has else np.eye(m) for m, has in zip((n, k), eigenbasis.sides((n, k)), strict=True))
    t, i, j = np.ogrid[:STEPS, :n, :k]
    size = 1.5 ** ((3 * i % n) * min(1, k / n) + (5 * j % k) * min(1, n / k) / 1.5)
    d = size * np.random.default_rng(1).uniform(-2.0, 2.0, (STEPS, n, k))
    return u, w, np.where((i + t) % k == j if n <= k else (j + t) % n == i, d, 0.0)


def average(x):
    """Bias corrected, over the first axis."""
    weight = 0.99 ** np.arange(len(x))[::-1]
    return np.tensordot(weight / weight.sum(), x, 1)


def test_a_constant_gradient_becomes_its_orthonormal_factor():
    """Within the rounding of zeros in that basis, over the floor."""
    u, w = orthogonal(5, 0), orthogonal(5, 1)
    g = (u * 1.6 ** -np.arange(5)) @ w.T
    np.testing.assert_allclose(preconditioned(after(np.stack([g] * STEPS)), g), u @ w.T, atol=0.04)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_division_by_the_root_mean_square_in_the_basis(shape):
    """With one basis, entries along the longer side are divided as Adam does."""
    (u, w, d), x = aligned(*shape), normal(*shape)
    expected = u @ (u.T @ x @ w / np.sqrt(average(d**2))) @ w.T
    basis = tuple(q if has else np.zeros(1) for q, has in zip((u, w), eigenbasis.sides(shape), strict=True))
    found = preconditioned(after(u @ d @ w.T, basis), x)
    np.testing.assert_allclose(found, expected, atol=1e-3 * abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bases_become_the_eigenvectors(shape):
    """From the identity, in whatever order."""
    u, w, d = aligned(*shape)
    state = after(u @ d @ w.T)
    for side, q in enumerate((u, w)):
        if eigenbasis.sides(shape)[side]:
            along = abs(q.T @ state.basis[side])
            np.testing.assert_allclose(along, np.round(along), atol=0.05)
            np.testing.assert_array_equal(np.sort(along.argmax(0)), np.arange(len(q)))


def test_the_bases_stay_orthonormal_and_turn_by_half_a_radian_at_most():
    """While gradients come from a basis that changes at every step."""
    update, state = jax.jit(eigenbasis.update), eigenbasis.init(jnp.zeros((20, 20)))
    turns = []
    for t in range(60):
        before, state = state.basis, update(state, orthogonal(20, t) * 3.0 ** -np.arange(20.0))
        for old, new in zip(before, state.basis, strict=True):
            np.testing.assert_allclose(new.T @ new, np.eye(20), atol=0.03)
            turns.append(np.linalg.norm(new - old, 2))
    assert 0.4 < max(turns) < 0.52


def test_the_root_mean_square_has_a_floor_and_no_bias():
    """A diagonal gradient is in its own basis: one update, then a quotient of what it was."""
    g = jnp.diag(jnp.array([1.0, 1e-3, 1e-4, 1e-5]))
    found = eigenbasis.precondition(eigenbasis.update(eigenbasis.init(g), g), g, jnp.asarray(0))
    np.testing.assert_allclose(found, g / np.sqrt(g**2 + 1e-8 * np.mean(g**2)), rtol=1e-3, atol=1e-12)


def test_squares_are_taken_in_the_basis_that_has_turned():
    g = jnp.asarray(normal(5, 5), jnp.float32)
    state = eigenbasis.update(eigenbasis.init(g), g)
    left, right = state.basis
    assert np.linalg.norm(left - np.eye(5), 2) > 0.3
    np.testing.assert_allclose(state.v, 0.01 * (left.T @ g @ right) ** 2, rtol=1e-3, atol=1e-6)


GRADIENTS = {
    "zero": np.zeros((4, 4)),
    "identity": np.eye(4),
    "diagonal": np.diag([1.0, 2.0, 0.0, 3.0]),
    "ones": np.ones((4, 4)),
    "one entry": np.eye(4)[[0]].T @ np.eye(4)[[1]],
    "tiny": 1e-11 * normal(4, 4),
}


@pytest.mark.parametrize("g", GRADIENTS.values(), ids=GRADIENTS)
def test_derivatives_are_finite(g):
    """Meta-gradients go through; a unit behind a gate has a gradient of zero."""

    def of(g):
        return jnp.sum(weights * eigenbasis.precondition(eigenbasis.update(eigenbasis.init(g), g), g, jnp.asarray(0)))

    weights = jnp.asarray(normal(4, 4), jnp.float32)
    assert np.all(np.isfinite(jax.jit(jax.grad(of))(jnp.asarray(g, jnp.float32))))


def test_squares_are_sharded_as_the_tensor():
    """Along any axis: they have its shape."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))
    for spec in [(None, None, "x"), ("x",), (None, None, None, "x")]:
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        w = jax.device_put(jnp.ones((2, 3, 4, 8)), sharding)
        assert eigenbasis.init({"w": w}).v["w"].sharding.is_equivalent_to(sharding, 4)


def test_a_plain_number_has_none():
    state = eigenbasis.init({"a": 1.0})
    assert {x.shape for x in jax.tree.leaves(state)} == {(1,)}


TABLE = {
    **{shape: (shape, (True, True)) for shape in [(4, 4), (256, 256)]},
    **{shape: (shape, (True, False)) for shape in [(4, 5), (4, 12), (256, 257)]},
    **{shape: (shape, (False, True)) for shape in [(5, 4), (12, 4), (257, 256)]},
    **{
        (257, 257): ((257, 257), (False, False)),
        (2, 2, 4): ((4, 4), (True, True)),
        (3, 4, 4): ((12, 4), (False, True)),
    },
    **{shape: (None, (False, False)) for shape in [(), (5,), (1, 5), (5, 1), (1, 1, 5), (2, 3, 1)]},
}


@pytest.mark.parametrize("shape", TABLE, ids=str)
def test_which_sides_have_a_basis(shape):
    matrix, sides = TABLE[shape]
    assert (eigenbasis.as_matrix(shape), eigenbasis.sides(shape)) == (matrix, sides)
    state = jax.eval_shape(eigenbasis.init, {"w": jax.ShapeDtypeStruct(shape, jnp.bfloat16)})
    squares = tuple({"w": (matrix[i],) * 2 if has else (1,)} for i, has in enumerate(sides))
    assert jax.tree.map(jnp.shape, tuple(state)) == (squares, squares, {"w": shape if any(sides) else (1,)})
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(scale):
    g = normal(STEPS, 5, 5)
    found = preconditioned(after(scale * g), scale * g[-1])
    np.testing.assert_allclose(found, preconditioned(after(g), g[-1]), atol=1e-3)


def test_zero_gradients_leave_the_basis():
    zeros, start = np.zeros((STEPS, 5, 5)), (orthogonal(5, 0), orthogonal(5, 1))
    state = after(zeros, start)
    for q, basis in zip(start, state.basis, strict=True):
        np.testing.assert_allclose(abs(q.T @ basis), np.eye(5), atol=1e-5)
    np.testing.assert_array_equal(preconditioned(state, zeros[0]), zeros[0])


def test_matrices_under_vmap_are_those_one_by_one():
    @jax.jit
    def both(state, g, t):
        state = eigenbasis.update(state, g)
        return state, eigenbasis.precondition(state, g, t)

    g, t = jnp.asarray(normal(2, 5, 5), jnp.float32), jnp.asarray([7, 20])
    states = [after(normal(STEPS, 5, 5) ** power) for power in (1, 3)]
    found = jax.vmap(both)(jax.tree.map(lambda *x: jnp.stack(x), *states), g, t)
    for i, state in enumerate(states):
        of = lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)
        jax.tree.map(of, found, both(state, g[i], t[i]))
