"""The rule of `tasks.provenance`, on what is really drawn and judged, and on cases made to break it."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from tasks import data, suites
from tasks.catalogue import held_out, velo
from tasks.catalogue.entries import Library
from tasks.errors import InputError
from tasks.provenance import Provenance, of_family, of_task, of_training, outside, shared, union
from tasks.sources import Examples

NEVER_TRAINED = {"mlp_mixer", "siren", "diffusion", "graph_network", "pinn", "test_functions"}


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A folder with tiny sets under the names of the stock ones that training distributions read."""
    folder = tmp_path_factory.mktemp("stock")
    rng = np.random.default_rng(0)
    for name in velo.IMAGES:
        side, channels = (28, 1) if "mnist" in name else (32, 3)
        image = rng.integers(0, 256, (20, side, side, channels), dtype=np.uint8)
        arrays = {"image": image, "label": np.arange(20) % 10}
        data.import_arrays(name, {"train": arrays, "test": arrays}, folder)
    return folder


@pytest.fixture(scope="module")
def training(stock):
    logging.getLogger("tasks").setLevel(logging.ERROR)
    return union(of_family(suites.family(name, stock)) for name in suites.FAMILIES)


def test_training_is_what_it_is_thought_to_be(training):
    """So that the rule below does not hold because nothing was found."""
    assert {"sklearn_digits", "python_source", "zipf_clusters", "mnist", "cifar100"} <= training.data
    assert {"image_mlp", "transformer_lm", "learned_optimizer", "quadratic", "tabular_mlp"} <= set(training.families)
    assert training.families["image_mlp"]["depth"] == (1, 4)
    assert training.families["image_mlp"]["width"] == (8, 128)
    assert training.families["transformer_lm"]["length"] == (4, 128)


def test_held_out_tasks_are_held_out(training):
    tasks = suites.suite("held-out")
    assert len(tasks) >= 30
    provenances = {task.name: of_task(task) for task in tasks}
    reasons = {name: outside(provenance, training) for name, provenance in provenances.items()}
    assert not [name for name, why in reasons.items() if not why]
    families = [family for provenance in provenances.values() for family in provenance.families]
    assert set(families) - set(training.families) >= NEVER_TRAINED and len(NEVER_TRAINED) >= 5
    assert set(training.families) <= set(families)  # all families are judged


@pytest.mark.parametrize("suite", ["sizes", "horizons"])
def test_data_beyond_training_are_of_held_out_too(suite, training):
    assert not [task.name for task in suites.suite(suite) if of_task(task).data & training.data]


def test_the_mini_suite_is_part_of_held_out():
    names = [task.name for task in suites.suite("held-out-mini")]
    assert len(names) == 8 and set(names) < {task.name for task in suites.suite("held-out")}


def test_validation_is_neither_training_nor_held_out():
    """No data in common with what is judged on; models that `wide` cannot draw."""
    judged = {task.name for task in suites.suite("held-out")}
    chosen, wide = suites.suite("validation"), of_family(suites.family("wide"))
    assert len(chosen) == 15 and not {task.name for task in chosen} & judged
    for task in chosen:
        provenance = of_task(task)
        assert not provenance.data & held_out.DATA
        assert outside(provenance._replace(data=frozenset()), wide), task.name


def test_the_rule_refuses_what_training_has():
    training = Provenance(frozenset({"a"}), {"mlp": {"width": (8, 32), "depth": (1, 3)}})
    task = lambda data, family, **sizes: Provenance(frozenset(data), {family: {n: (s, s) for n, s in sizes.items()}})
    assert outside(task({"b"}, "mlp", width=16, depth=2), training) == []
    assert outside(task({"b"}, "mlp", width=8, depth=3), training) == []
    assert outside(task({"b"}, "mlp", width=33, depth=2), training) == ["width 33 outside 8 to 32"]
    assert outside(task({"b"}, "mlp", width=7, depth=4), training) == [
        "width 7 outside 8 to 32",
        "depth 4 outside 1 to 3",
    ]
    assert outside(task({"b"}, "siren", width=16), training) == ["no training on siren"]
    assert outside(task({"a"}, "siren", width=16), training) == []
    assert outside(task({"b"}, "mlp", length=99), training) == []


def test_why_a_task_is_not_held_out():
    training = Provenance(frozenset({"a", "c"}), {"mlp": {"width": (8, 32)}})
    task = lambda data, family, width: Provenance(frozenset(data), {family: {"width": (width, width)}})
    assert shared(task({"b"}, "mlp", 33), training) == shared(task({"b"}, "siren", 16), training) == []
    assert shared(task({"b"}, "mlp", 32), training) == ["mlp of a size that is trained on"]
    assert shared(task({"a", "b", "c"}, "siren", 99), training) == ["data set a", "data set c"]


def test_training_is_known_by_name_without_its_data(stock, tmp_path, monkeypatch):
    """The same as of the distribution itself, where none of the sets is there; what stood in is told by the tasks."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in suites.FAMILIES:
        there, known = of_family(suites.family(name, stock)), of_training(name)
        assert known.families == there.families
        assert known.data == (there.data - {"python_source"} | {"lm1b"} if name == "velo-mixture" else there.data)
    assert list(tmp_path.iterdir()) == []
    drawn = ["celo_mnist__global", "celo_sklearn_digits__global", "rnn_lm_python_source_gru_8x8_bs4"]
    assert of_training("celo-four", drawn).data >= {"mnist", "sklearn_digits", "python_source"}
    with pytest.raises(InputError, match="unknown task family 'gone'"):
        of_training("gone")


def test_resized_data_are_the_same_data(stock):
    assert of_task(suites.task("celo_mnist", stock)).data == {"mnist"}


@pytest.mark.parametrize("name", ["mnist", "mnist@8", "mnist@8-grey", "mnist:3.0.1", "mnist/a", "mnist/a:1.0.0"])
def test_versions_and_configurations_are_the_same_data(name):
    task = suites.task("digits_mlp_32")
    named = replace(task, source=Examples(replace(task.source.data, name=name)))
    assert of_task(named).data == {"mnist"}


def test_the_union_joins_ranges_of_a_family():
    joined = union(
        [
            Provenance(frozenset({"a"}), {"mlp": {"width": (8, 32)}}),
            Provenance(frozenset({"b"}), {"mlp": {"width": (4, 16), "depth": (1, 2)}, "vit": {}}),
        ]
    )
    assert joined == Provenance(frozenset({"a", "b"}), {"mlp": {"width": (4, 32), "depth": (1, 2)}, "vit": {}})


def test_celo_four_says_that_digits_stand_in(stock, tmp_path, caplog):
    for name in ("mnist", "fashion_mnist", "cifar10"):
        (tmp_path / name).symlink_to(stock / name)
    with caplog.at_level(logging.WARNING, "tasks"):
        names = [task.name for task in suites.suite("celo-four", tmp_path)]
    assert names == ["celo_mnist", "celo_fashion_mnist", "celo_cifar10", "celo_sklearn_digits"]
    assert "celo_sklearn_digits takes the place of celo_svhn_cropped" in caplog.text
    caplog.clear()
    assert suites.suite("celo-four", stock)[3].name == "celo_svhn_cropped"
    assert not caplog.records


def test_published_tasks_have_their_published_shapes(stock):
    import jax

    tasks = {task.name: task for task in suites.suite("velodrome", stock)}
    shapes = lambda name: sorted(
        x.shape for x in jax.tree.leaves(jax.eval_shape(tasks[name].init, jax.random.key(0)).params) if x.ndim > 1
    )
    assert shapes("ImageMLP_Cifar10_8_Relu32") == [(32, 10), (192, 32)]
    assert shapes("ImageMLPAE_Mnist_128x32x128_bs128") == [(32, 128), (128, 32), (128, 784), (784, 128)]
    assert len(shapes("Conv_Cifar10_16_32x64x64")) == 4
    assert tasks["ImageMLPAE_Cifar10_256x256x256_bs1024"].batch_size == 1024


def test_a_library_holds_a_set_once():
    library = Library()
    assert library.dataset("sklearn_iris") is library.dataset("sklearn_iris")
