"""What `ModelTask` and `ModelFamily` promise of any model, tried on one of each family of image models."""

from dataclasses import replace

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tasks.data import Dataset, Split
from tasks.errors import InputError
from tasks.families.autoencoder import Autoencoder, half_loss
from tasks.families.image_conv import ImageConv
from tasks.families.image_mlp import ImageMLP, ImageMLPs
from tasks.families.mlp_mixer import MLPMixer
from tasks.families.resnet import ResNet
from tasks.families.vae import VAE
from tasks.families.vit import ViT
from tasks.model_task import Model, ModelFamily, ModelTask, Space, describe
from tasks.sources import Examples

KEY = jax.random.key(0)
STEPS = 60


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def made_up(count=2500, side=6, classes=4):
    """Images of four noisy patterns."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, classes, count)
    patterns = rng.uniform(size=(classes, side, side, 1))
    image = np.clip(patterns[label] + 0.1 * rng.normal(size=(count, side, side, 1)), 0, 1)
    split = Split({"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label, jnp.int32)})
    return Examples(Dataset(split, split, "made_up", classes))


SOURCE = made_up()
MODELS = {
    "image_mlp": ImageMLP((7,), "relu", 4),
    "image_conv": ImageConv((4, 6), 1, "layer", "relu", 4),
    "resnet": ResNet((4, 6), (1, 1), 1, "batch", "relu", 4),
    "autoencoder": Autoencoder((16, 4, 16), "relu", half_loss(SOURCE)),
    "vae": VAE((8,), 2, "relu"),
    "vit": ViT(3, 8, 1, 2, 2, 4),
    "mlp_mixer": MLPMixer(3, 8, 1, 6, 16, 4),
}


@jax.jit
def train(task, key):
    """First and last variables of Adam, their losses, gradient norms, evaluations before and after."""
    adam = optax.adam(1e-2)
    start = task.init(key)

    def step(carry, key):
        (params, state), opt_state = carry
        (loss, state), grads = jax.value_and_grad(task.loss, has_aux=True)(params, state, task.batch(key), key)
        updates, opt_state = adam.update(grads, opt_state, params)
        return ((optax.apply_updates(params, updates), state), opt_state), (loss, optax.tree.norm(grads))

    carry = (tuple(start), adam.init(start.params))
    (end, _), (losses, norms) = jax.lax.scan(step, carry, jax.random.split(key, STEPS))
    both = jax.tree.map(lambda *ends: jnp.stack(ends), tuple(start), end)
    return tuple(start), end, losses, norms, jax.vmap(lambda variables: task.evaluate(*variables, "train"))(both)


@pytest.mark.parametrize("name", MODELS)
def test_models_start_where_they_state_and_train_with_finite_gradients_under_vmap(name):
    model = MODELS[name]
    assert isinstance(model, Model) and hash(model) == hash(replace(model))
    task = ModelTask(SOURCE, model, name, batch_size=32)
    keys = jax.random.split(KEY, 4)
    start, end, losses, norms, evaluations = jax.device_get(jax.vmap(train, (None, 0))(task, keys))
    before, after = evaluations.T
    assert np.isfinite(losses).all() and np.isfinite(norms).all() and (norms > 0).all()
    np.testing.assert_allclose(before.mean(), model.initial_loss, rtol=0.25)
    np.testing.assert_allclose(losses[:, 0].mean(), model.initial_loss, rtol=0.25)
    assert (after < 0.98 * before).all() and after.mean() < (0.96 if name == "vae" else 0.75) * before.mean()
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), variables) for variables in (start, end)]
    assert shapes[0] == shapes[1]
    first = jax.random.split(keys[0], STEPS)[0]
    one = jax.jit(lambda task, key: task.loss(*task.init(key), task.batch(first), first)[0])
    np.testing.assert_allclose(one(task, keys[0]), losses[0, 0], rtol=1e-5)
    constants = jax.make_jaxpr(one)(task, KEY).consts
    assert sum(np.size(constant) for constant in constants) < 100


@pytest.mark.parametrize("layer", ["linear", "convolution", "embedding"])
def test_the_default_start_is_haikus(layer):
    def network(x):
        if layer == "linear":
            return hk.nets.MLP([300, 200, 3])(x)
        if layer == "convolution":
            return hk.Conv2D(50, (3, 5))(x.reshape(1, 5, 1, 1).repeat(20, -1))
        return hk.Embed(100, 30)(jnp.zeros(3, jnp.int32))

    class Network(ImageMLP):
        def __call__(self, batch, training):
            del training
            return network(batch["image"]).sum()

    split = Split({"image": jnp.ones((4, 5)), "label": jnp.zeros(4, jnp.int32)})
    task = ModelTask(Examples(Dataset(split, split, "d", 3)), Network((), "relu", 3), "t", batch_size=1)
    params, _ = jax.jit(task.init)(KEY)
    haikus = jax.jit(hk.transform(network).init)(jax.random.key(1), jnp.ones((1, 5)))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, haikus)
    checked = 0
    for module, layers in haikus.items():
        for name, theirs in layers.items():
            ours, theirs = np.asarray(params[module][name]), np.asarray(theirs)
            if ours.ndim == 1:
                np.testing.assert_array_equal(ours, theirs)
                continue
            checked += 1
            np.testing.assert_allclose(ours.std(), theirs.std(), rtol=8 / np.sqrt(ours.size))
            assert abs(ours.mean()) < 5 * ours.std() / np.sqrt(ours.size)
            deviation = 1 if name == "embeddings" else 1 / np.sqrt(np.prod(ours.shape[:-1]))
            assert 1.5 * deviation < np.abs(ours).max() <= 2 * deviation * (1 + 1e-6)
    assert checked == (3 if layer == "linear" else 1)


def test_weights_of_different_arrays_are_independent():
    params, _ = jax.jit(ModelTask(SOURCE, ImageMLP((36, 36), "relu", 4), "t").init)(KEY)
    first, second, _ = (np.asarray(layer["w"]).ravel() for layer in params.values())
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)


def test_initial_scale_multiplies_the_default_start_and_covers_its_range():
    default = ModelTask(SOURCE, ImageConv((3,), 1, "batch", "relu", 4), "t")
    scaled = replace(default, initial_scale=(0.1, 10.0))

    def scale(key):
        pairs = zip(scaled.init(key).params.values(), default.init(key).params.values(), strict=True)
        ratios = [a["w"] / b["w"] for a, b in pairs if "w" in a]
        return ratios[0].mean(), jnp.stack([jnp.abs(r / ratios[0].mean() - 1).max() for r in ratios]).max()

    scales, spread = jax.jit(jax.vmap(scale))(jax.random.split(KEY, 500))
    assert spread.max() < 1e-4
    assert scales.min() > 0.0999 and scales.max() < 10.001
    logs = np.log10(np.asarray(scales))
    assert abs(logs.mean()) < 0.1 and logs.min() < -0.95 and logs.max() > 0.95
    one, two = (jax.jit(replace(default, initial_scale=(s, s)).init)(KEY) for s in (1.0, 2.0))
    for module, layer in one.params.items():
        for name, w in layer.items():
            np.testing.assert_allclose(two.params[module][name], (2 if w.ndim >= 2 else 1) * w, rtol=1e-6)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, one.state, two.state))


def test_evaluate_looks_at_the_first_2048_examples():
    task = ModelTask(SOURCE, MODELS["image_mlp"], "t")
    params, state = jax.jit(task.init)(KEY)
    loss = jax.jit(task.loss)
    whole = SOURCE.data.train.fields
    head = {name: array[:2048] for name, array in whole.items()}
    evaluated = jax.jit(task.evaluate, static_argnums=2)(params, state, "train")
    np.testing.assert_allclose(evaluated, loss(params, state, head, KEY)[0], rtol=1e-6)
    assert evaluated != loss(params, state, whole, KEY)[0]


def test_a_family_draws_sources_spaces_and_batch_sizes_and_names_what_it_drew():
    sources = (SOURCE, Examples(replace(SOURCE.data, name="a/b")))
    space = ImageMLPs(width=(2, 3), depth=(1, 2))
    assert isinstance(space, Space)
    family = ModelFamily("f", sources, space, initial_scale=(0.5, 2.0), batch_size=(16, 64))
    drawn = [family.sample(key) for key in jax.random.split(KEY, 30)]
    assert {task.batch_size for task in drawn} == {16, 32, 64}
    assert {task.source.name for task in drawn} == {"made_up", "a/b"}
    assert {len(task.model.widths) for task in drawn} == {1, 2}
    for task in drawn:
        data = task.source.name.replace("/", "_")
        assert task.name == f"f_{data}_{describe(task.model)}_bs{task.batch_size}"
        assert jax.eval_shape(task.batch, KEY)["image"].shape == (task.batch_size, 6, 6, 1)
        assert (task.initial_scale, task.loss_cap) == ((0.5, 2.0), task.model.loss_cap)
    for key in jax.random.split(KEY, 3):
        first, again = family.sample(key), family.sample(key)
        assert jax.tree.structure(first) == jax.tree.structure(again)
        assert first.source is again.source
    assert len({task.name for task in drawn}) > 15


def test_describe():
    assert describe(ImageMLP((32, 8), "relu", 10)) == "32x8_relu_10"
    assert describe(ImageMLP((), "tanh", 10)) == "none_tanh_10"
    assert describe(Autoencoder((4,), "relu", 0.231)) == "4_relu_0.231"


def test_data_of_another_kind_are_told_in_one_line():
    split = Split({"x": jnp.zeros((9, 4)), "label": jnp.zeros(9, jnp.int32)})
    table = Examples(Dataset(split, split, "table", 2))
    task = ModelTask(table, ImageMLP((3,), "relu", 2), "t")
    with pytest.raises(InputError, match=r"^task 't': data 'table' have fields label, x, expected a field image"):
        task.init(KEY)


def test_data_without_labels_are_told_in_one_line():
    unlabelled = Examples(replace(SOURCE.data, classes=None))
    with pytest.raises(InputError, match=r"^data set 'made_up' has no classes, expected a field label or token"):
        ImageMLPs().draw(KEY, unlabelled)
