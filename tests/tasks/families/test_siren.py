import jax
import numpy as np
import pytest
from model_checks import KEY, check_training, examples, perturbed, random
from scipy import stats

from tasks.families.siren import Siren, Sirens
from tasks.model_task import ModelTask


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def image(side: int = 24):
    """Three colours that change over the image: a wave, a slope and a checkerboard, standardised."""
    place = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, side)]), axis=-1).reshape(-1, 2)
    colour = np.stack([np.sin(8 * place.prod(axis=1)), place[:, 0], np.sign(np.sin(6 * place)).prod(axis=1)], axis=1)
    colour = (colour - colour.mean(axis=0)) / colour.std(axis=0)
    return examples(x=place.astype(np.float32), y=colour.astype(np.float32))


def paper_arguments(params, x):
    """The arguments of the sines and the output, weights rescaled from their start to the paper's distributions."""
    start = stats.truncnorm(-2, 2).std()
    uniform = lambda bound: stats.uniform(-bound, 2 * bound).std()
    *layers, last = [np.asarray(layer["w"], np.float64) for name, layer in params.items() if name != "~"]
    arguments, h = [], np.asarray(x, np.float64)
    for i, w in enumerate(layers):
        n = len(w)
        deviation = 30 * (uniform(1 / n) if i == 0 else uniform(np.sqrt(6 / n) / 30))
        arguments.append(h @ w * (deviation / (start / np.sqrt(n))))
        h = np.sin(arguments[-1] + np.asarray(params["~"][f"phase_{i}"]))
    n = len(last)
    output = h @ last * (uniform(np.sqrt(6 / n) / 30) / (start / np.sqrt(n)))
    return arguments, output + np.asarray(params["~"]["bias"])


def test_loss_is_that_of_the_papers_network():
    source = image()
    task = ModelTask(source, Siren(7, 3), "t", batch_size=11)
    params, state = perturbed(task, 0.1)
    batch = task.batch(KEY)
    _, output = paper_arguments(params, batch["x"])
    expected = np.mean((output - np.asarray(batch["y"])) ** 2)
    np.testing.assert_allclose(jax.jit(task.loss)(params, state, batch, KEY)[0], expected, rtol=1e-3)  # sines of 30 x


def test_variances_at_the_start_are_the_papers():
    x = random(0).uniform(-1, 1, (300, 2)).astype(np.float32)
    task = ModelTask(examples(x=x, y=np.zeros((300, 3), np.float32)), Siren(400, 4), "t")
    params, _ = jax.jit(task.init)(KEY)
    arguments, _ = paper_arguments(params, x)
    size = (arguments[0] / np.linalg.norm(x, axis=1, keepdims=True)).var()
    np.testing.assert_allclose(size, 30**2 / (3 * 2**2), rtol=0.15)
    for argument in arguments[1:]:
        np.testing.assert_allclose(argument.var(), 1, rtol=0.1)


def test_outputs_start_with_a_deviation_of_a_thirtieth():
    """With targets of zero, the loss is the mean square of the output."""
    x = random(0).uniform(-1, 1, (100, 2)).astype(np.float32)
    task = ModelTask(examples(x=x, y=np.zeros((100, 3), np.float32)), Siren(64, 2), "t")
    losses = jax.jit(jax.vmap(lambda key: task.evaluate(*task.init(key), "train")))(jax.random.split(KEY, 32))
    np.testing.assert_allclose(losses.mean(), 1 / 30**2, rtol=0.2)


def test_phases_fill_a_turn():
    phase = jax.jit(ModelTask(image(), Siren(500, 2), "t").init)(KEY).params["~"]["phase_1"]
    assert stats.kstest(np.asarray(phase), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01


def test_training():
    check_training(ModelTask(image(), Siren(24, 2), "t", batch_size=128), 0.4, steps=150)


def test_the_space_stays_in_its_ranges_and_reaches_their_ends():
    space = Sirens(width=(2, 5), depth=(1, 3))
    drawn = [space.draw(key, image()) for key in jax.random.split(KEY, 60)]
    assert {model.width for model in drawn} == {2, 3, 4, 5}
    assert {model.depth for model in drawn} == {1, 2, 3}
    assert drawn[0].dimensions == {"width": drawn[0].width, "depth": drawn[0].depth}
    assert drawn[0].initial_loss < drawn[0].loss_cap == 1.5
