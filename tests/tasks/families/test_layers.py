import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.data import Dataset, Split
from tasks.errors import InputError
from tasks.families import layers
from tasks.families.autoencoder import half_loss
from tasks.families.layers import BatchNorm, Conv
from tasks.families.next_token import draw_length
from tasks.sources import Examples

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def images(height, width, classes=3):
    split = Split({"image": normal(4, height, width, 2), "label": jnp.zeros(4, jnp.int32)})
    return Examples(Dataset(split, split, "made_up", classes))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 2), (2, 1), (5, 3)])
def test_conv_against_xla_and_haiku_with_gradients(kernel, stride):
    ours = hk.transform(lambda x: Conv(4, kernel, stride)(x))
    haikus = hk.transform(lambda x: hk.Conv2D(4, kernel, stride)(x))
    params = {"conv": {"w": normal(kernel, kernel, 2, 4), "b": normal(4)}}
    images = [normal(3, *size, 2) for size in ((8, 8), (5, 7), (1, 2))]
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(ours.init, KEY, images[0]))
    assert shapes == jax.tree.map(jnp.shape, params)

    def xla(params, x):
        w, b, numbers = params["conv"]["w"], params["conv"]["b"], ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=numbers)
        return y + b[None, None, None]

    def with_gradients(call, x):
        weights = jnp.cos(jnp.arange(xla(params, x).size)).reshape(xla(params, x).shape)
        return call(params, x), jax.grad(lambda p, x: (weights * call(p, x)).sum(), (0, 1))(params, x)

    calls = (
        lambda p, x: ours.apply(p, None, x),
        lambda p, x: haikus.apply({"conv2_d": p["conv"]}, None, x),
        xla,
    )
    results = jax.jit(lambda: [[with_gradients(call, x) for x in images] for call in calls])()
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), results[0], other)


def test_tiles_are_the_squares_row_by_row():
    x = normal(2, 4, 6, 3)
    got = layers.tiles(x, 2)
    expected = [[image[i : i + 2, j : j + 2].ravel() for i in (0, 2) for j in (0, 2, 4)] for image in np.asarray(x)]
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(InputError, match=r"^patches of 4x4, expected a size that divides images of 4x6$"):
        layers.tiles(x, 4)


def test_images_that_were_flattened_are_told_in_one_line():
    with pytest.raises(InputError, match=r"^images of shape \(9, 64\), expected \(B, H, W, C\); flatten_images is for"):
        layers.check_images((9, 64))
    flat = Split({"image": normal(4, 64)})
    with pytest.raises(InputError, match=r"^images of shape \(1, 64\)"):
        layers.image_shape(KEY, Examples(Dataset(flat, flat, "flat")))
    assert layers.image_shape(KEY, images(4, 6)) == (4, 6, 2)
    table = Split({"x": normal(4, 8), "y": normal(4)})
    source = Examples(Dataset(table, table, "table"))
    needs = {
        "image": (lambda: layers.image_shape(KEY, source), lambda: half_loss(source)),
        "input": (lambda: draw_length(KEY, source, 2, 4),),
    }
    for field, calls in needs.items():
        for call in calls:
            with pytest.raises(InputError, match=f"^data set 'table' has x, y, expected a field '{field}'$"):
                call()


def test_draw_patch_fits_the_images():
    drawn = {layers.draw_patch(key, images(8, 8), (1, 4)) for key in jax.random.split(KEY, 20)}
    assert drawn == {8, 4, 2}
    assert {layers.draw_patch(key, images(12, 9), (1, 4)) for key in jax.random.split(KEY, 3)} == {3}
    with pytest.raises(InputError, match=r"^images of 7x8: no square patch divides them with 2-4 along the height$"):
        layers.draw_patch(KEY, images(7, 8), (2, 4))


def test_cross_entropy_linear_and_layer_norm_against_numpy():
    logits, label = normal(5, 4), jnp.asarray([0, 3, 2, 2, 1])
    p = np.exp(np.asarray(logits, np.float64))
    expected = -np.log(p[range(5), np.asarray(label)] / p.sum(1)).mean()
    np.testing.assert_allclose(layers.cross_entropy(logits, label), expected, rtol=1e-5)
    assert layers.cross_entropy(logits.astype(jnp.bfloat16), label).dtype == jnp.float32

    x, w, b = normal(2, 3, 5, 4), normal(4, 6), normal(6)
    got = hk.transform(lambda x: layers.linear(x, 6)).apply({"linear": {"w": w, "b": b}}, None, x)
    np.testing.assert_allclose(got, np.einsum("abcd,do->abco", x, w) + np.asarray(b), rtol=1e-4, atol=1e-5)

    scale, offset = normal(4), normal(4)
    params = {"layer_norm": {"scale": scale, "offset": offset}}
    got = hk.transform(layers.layer_norm).apply(params, None, x)
    z = np.asarray(x, np.float64)
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, z * np.asarray(scale) + np.asarray(offset), rtol=1e-4, atol=1e-5)


_init, _apply = hk.transform_with_state(lambda x, training: BatchNorm()(x, training))
init_norm, apply_norm = jax.jit(_init, static_argnums=2), jax.jit(_apply, static_argnums=4)


def test_running_averages_in_closed_form():
    steps = 7
    batches = [np.asarray(2 + i + (i + 1) * normal(3, 4, 4, 2)) for i in range(steps)]
    params, state = init_norm(KEY, jnp.zeros((3, 4, 4, 2)), True)
    start = state
    np.testing.assert_array_equal(state["batch_norm"]["mean"], 0)
    np.testing.assert_array_equal(state["batch_norm"]["variance"], 1)
    for batch in batches:
        _, state = apply_norm(params, state, None, jnp.asarray(batch), True)
    odds = 0.1 * 0.9 ** np.arange(steps)[::-1]
    flat = np.stack(batches).reshape(steps, -1, 2).astype(np.float64)
    np.testing.assert_allclose(state["batch_norm"]["mean"], odds @ flat.mean(1), rtol=1e-5)
    np.testing.assert_allclose(state["batch_norm"]["variance"], 0.9**steps + odds @ flat.var(1), rtol=1e-5)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(lambda a: (a.shape, a.dtype), start)


def test_batch_norm_normalises_by_the_batch_in_training_and_by_averages_in_evaluation():
    x = 3 + 2 * normal(3, 4, 4, 2)
    scale, offset = normal(2), normal(2)
    params = {"batch_norm": {"scale": scale, "offset": offset}}
    state = {"batch_norm": {"mean": normal(2), "variance": jnp.exp(normal(2))}}

    def formula(m, v):
        z = (np.asarray(x, np.float64) - np.asarray(m)) / np.sqrt(np.asarray(v) + 1e-5)
        return z * np.asarray(scale) + np.asarray(offset)

    got, after = apply_norm(params, state, None, x, True)
    np.testing.assert_allclose(got, formula(x.mean((0, 1, 2)), x.var((0, 1, 2))), rtol=1e-4, atol=1e-5)
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, after, state))
    got, after = apply_norm(params, state, None, x, False)
    np.testing.assert_allclose(got, formula(*state["batch_norm"].values()), rtol=1e-4, atol=1e-5)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, after, state))


def test_the_gradient_runs_through_the_statistics_of_the_batch():
    x, weights, scale, offset = (normal(*shape) for shape in ((5, 2), (5, 2), (2,), (2,)))
    haikus = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, True))
    state, haiku_state = init_norm(KEY, x, True)[1], jax.jit(haikus.init)(KEY, x)[1]

    def ours(x):
        return apply_norm({"batch_norm": {"scale": scale, "offset": offset}}, state, None, x, True)[0]

    def theirs(x):
        params = {"batch_norm": {"scale": scale[None], "offset": offset[None]}}
        return haikus.apply(params, haiku_state, None, x)[0]

    gradients = [jax.jit(jax.grad(lambda x, f=f: (weights * f(x)).sum()))(x) for f in (ours, theirs)]
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-5)


def test_statistics_stay_float32_for_bfloat16_activations():
    x = normal(64, 3).astype(jnp.bfloat16)
    params, state = init_norm(KEY, x, True)
    y, state = apply_norm(params, state, None, x, True)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
