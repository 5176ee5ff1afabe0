import math
from dataclasses import replace

import haiku as hk
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from tasks import suites
from tasks.data import Dataset, Split, load
from tasks.errors import InputError
from tasks.families.image_mlp import ACTIVATIONS, ImageMLP, ImageMLPFamily, task_name

KEY = jax.random.key(0)


def made_up(count: int = 3000, pixels: int = 5, classes: int = 3) -> Dataset:
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(size=(count, pixels)), jnp.float32)
    label = jnp.asarray(rng.integers(0, classes, count), jnp.int32)
    split = Split({"image": image, "label": label})
    return Dataset(split, split, "made_up", classes)


@jax.jit
def init(task, key):
    return task.init(key)


def test_the_published_shape():
    params, state = jax.eval_shape(suites.task("digits_mlp_32").init, KEY)
    shapes = {module: {name: w.shape for name, w in weights.items()} for module, weights in params.items()}
    assert list(shapes.values()) == [{"w": (64, 32), "b": (32,)}, {"w": (32, 10), "b": (10,)}]
    assert state == {}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_against_numpy(activation):
    task = ImageMLP(made_up(), "made_up_7", (7,), activation, batch_size=11)
    params, state = init(task, KEY)
    batch = task.batch(KEY)
    first, last = params.values()
    hidden = np.asarray(ACTIVATIONS[activation](batch["image"] @ first["w"] + first["b"][None]), np.float64)
    logits = hidden @ np.asarray(last["w"]) + np.asarray(last["b"])
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(11), np.asarray(batch["label"])])
    np.testing.assert_allclose(task.loss(params, state, batch, KEY)[0], expected, rtol=1e-5)


def test_the_default_start_is_haikus():
    task = ImageMLP(made_up(), "t", (300, 200), batch_size=1)
    params, _ = init(task, KEY)
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([300, 200, 3])(x)))
    haikus = jax.jit(net.init)(KEY, task.data.train.fields["image"][:1])
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, haikus)
    for ours, theirs in zip(params.values(), haikus.values(), strict=True):
        ours, theirs, fan_in = np.asarray(ours["w"]), np.asarray(theirs["w"]), len(ours["w"])
        np.testing.assert_allclose(ours.std(), theirs.std(), rtol=8 / np.sqrt(ours.size))
        assert abs(ours.mean()) < 5 * ours.std() / np.sqrt(ours.size)
        assert np.abs(ours).max() <= 2 / np.sqrt(fan_in)
    assert not any(np.any(layer["b"]) for layer in params.values())


def test_evaluate_looks_at_the_first_2048_examples():
    task = ImageMLP(made_up(), "made_up_7", (7,))
    params, state = init(task, KEY)
    head = {name: array[:2048] for name, array in task.data.train.fields.items()}
    whole = task.data.train.fields
    evaluated = task.evaluate(params, state, "train")
    np.testing.assert_allclose(evaluated, task.loss(params, state, head, KEY)[0], rtol=1e-6)
    assert evaluated != task.loss(params, state, whole, KEY)[0]


def test_initial_scale_multiplies_the_default_start_and_covers_its_range():
    default = ImageMLP(made_up(), "made_up_7", (7,))
    scaled = replace(default, initial_scale=(0.1, 10.0))

    def scale(key):
        pairs = zip(scaled.init(key).params.values(), default.init(key).params.values(), strict=True)
        ratios = [a["w"] / b["w"] for a, b in pairs]
        return ratios[0].mean(), jnp.stack([jnp.abs(r / ratios[0].mean() - 1).max() for r in ratios]).max()

    scales, spread = jax.jit(jax.vmap(scale))(jax.random.split(KEY, 500))
    assert spread.max() < 1e-4
    assert scales.min() > 0.0999 and scales.max() < 10.001
    logs = np.log10(np.asarray(scales))
    assert abs(logs.mean()) < 0.1 and logs.min() < -0.95 and logs.max() > 0.95
    fixed = init(replace(default, initial_scale=(2.0, 2.0)), KEY)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-6), fixed, init(default, KEY)[0])


def test_a_family_stays_in_its_ranges_and_reaches_their_ends():
    family = ImageMLPFamily(made_up(), "f", widths=(2, 5), depth=(1, 3), batch_size=(16, 64))
    drawn = [family.sample(key) for key in jax.random.split(KEY, 60)]
    assert {w for task in drawn for w in task.widths} == {2, 3, 4, 5}
    assert {len(task.widths) for task in drawn} == {1, 2, 3}
    assert any(len(set(task.widths)) > 1 for task in drawn)
    assert {task.batch_size for task in drawn} == {16, 32, 64}
    assert {task.activation for task in drawn} == set(ACTIVATIONS)
    assert all(task.initial_scale == family.initial_scale for task in drawn)
    for task in drawn:
        assert task.name == task_name("f", task.widths, task.activation, task.batch_size)
        assert jax.eval_shape(task.batch, KEY)["image"].shape == (task.batch_size, 5)


@pytest.mark.parametrize("name", suites.FAMILIES)
def test_equal_keys_draw_equal_tasks(name):
    family = suites.family(name)
    first, again = family.sample(KEY), family.sample(KEY)
    assert jax.tree.structure(first) == jax.tree.structure(again)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, first, again))
    assert len({family.sample(jax.random.key(i)).name for i in range(8)}) == (1 if name == "digits-mlp" else 8)


def test_names():
    assert task_name("digits-mlp", (32,)) == "digits_mlp_32"
    assert task_name("d", (96, 8), "tanh", 64) == "d_96x8_tanh_bs64"
    assert task_name("d", ()) == "d_linear"


def test_unfit_data_are_told_in_one_line():
    with pytest.raises(InputError, match=r"^task 't': images of shape \(1437, 8, 8, 1\), expected .*flatten_images$"):
        ImageMLP(load("sklearn_digits"), "t").init(KEY)
    unlabelled = ImageMLP(replace(made_up(), classes=None), "t")
    with pytest.raises(InputError, match=r"^task 't': data set 'made_up' has no class labels, expected a field label$"):
        _ = unlabelled.loss_cap


def test_gradients_are_right():
    task = ImageMLP(made_up(), "t", (7,), "tanh", batch_size=4)
    params, state = init(task, KEY)
    batch = task.batch(KEY)
    loss = jax.jit(lambda p: task.loss(p, state, batch, KEY)[0])
    jax.test_util.check_grads(loss, (params,), 1, modes=["rev"], rtol=0.02)
    assert math.isfinite(task.loss_cap)
