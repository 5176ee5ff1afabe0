import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tasks import suites
from tasks.errors import InputError
from tasks.families.image_mlp import ImageMLP


def test_the_digits_suite():
    seen, unseen = suites.suite("digits")
    assert (seen.name, unseen.name) == ("digits_mlp_32", "digits_mlp_96x96x96_tanh")
    assert isinstance(seen, ImageMLP) and isinstance(unseen, ImageMLP)
    assert (seen.widths, seen.activation, seen.initial_scale, seen.batch_size) == (
        (32,),
        "relu",
        (1.0, 1.0),
        128,
    )
    assert (unseen.widths, unseen.activation, unseen.batch_size) == ((96, 96, 96), "tanh", 128)
    assert seen.data.train.fields["image"] is unseen.data.train.fields["image"]  # read once, held once


def test_the_first_task_of_the_suite_is_the_one_trained_on():
    trained = suites.family("digits-mlp").sample(jax.random.key(7))
    assert jax.tree.structure(trained) == jax.tree.structure(suites.suite("digits")[0])


def test_builders_and_descriptions_cover_each_other_and_the_names_of_tasks_are_theirs():
    assert suites.describe_tasks().keys() == suites.TASKS.keys()
    assert suites.describe_suites().keys() == suites.SUITES.keys()
    assert suites.describe_families().keys() == suites.FAMILIES.keys()
    for lines in (suites.describe_tasks(), suites.describe_suites(), suites.describe_families()):
        assert all(line and "\n" not in line for line in lines.values())
    assert {name: build().name for name, build in suites.TASKS.items()} == {name: name for name in suites.TASKS}
    assert {name: build().name for name, build in suites.FAMILIES.items()} == {n: n for n in suites.FAMILIES}
    assert all(len({task.name for task in build()}) == len(build()) for build in suites.SUITES.values())


@pytest.mark.parametrize(
    ("look_up", "name", "near"),
    [
        (suites.task, "digits_mlp_23", "did you mean digits_mlp_32"),
        (suites.suite, "digit", r"did you mean digits\?"),
        (suites.suite, "zzz", "expected one of digits"),
        (suites.family, "digits_mlp", "did you mean digits-mlp, digits-mlp-wide"),
    ],
)
def test_unknown_names_are_told_in_one_line_with_the_nearest(look_up, name, near):
    with pytest.raises(InputError, match=rf"^unknown [a-z ]+ '{name}': .*{near}.*`learned-opt list` shows all$"):
        look_up(name)


def test_importing_and_describing_read_nothing_and_compute_nothing(tmp_path):
    code = """
import sys
from tasks import suites
suites.describe_tasks(), suites.describe_suites(), suites.describe_families()
assert "tensorflow_datasets" not in sys.modules and "sklearn" not in sys.modules
import jax
from jax._src import xla_bridge
assert not xla_bridge._backends
"""
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "TFDS_DATA_DIR": str(tmp_path / "data")}
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True, timeout=60)
    assert not (tmp_path / "data").exists()
