import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tasks import suites
from tasks.errors import DataUnavailable, InputError
from tasks.families.image_mlp import ImageMLP


def test_the_digits_suite():
    seen, unseen = suites.suite("digits")
    assert (seen.name, unseen.name) == ("digits_mlp_32", "digits_mlp_96x96x96_tanh")
    assert (seen.model, seen.initial_scale, seen.batch_size) == (ImageMLP((32,), "relu", 10), (1.0, 1.0), 128)
    assert (unseen.model, unseen.batch_size) == (ImageMLP((96, 96, 96), "tanh", 10), 128)
    images = [task.source.data.train.fields["image"] for task in (seen, unseen)]
    assert images[0] is images[1]  # read once, held once


def test_the_first_task_of_the_suite_is_the_one_trained_on():
    trained = suites.family("digits-mlp").sample(jax.random.key(7))
    assert jax.tree.structure(trained) == jax.tree.structure(suites.suite("digits")[0])


def test_builders_and_descriptions_cover_each_other_and_the_names_of_tasks_are_theirs():
    assert suites.describe_tasks().keys() == suites.TASKS.keys()
    assert suites.describe_suites().keys() == suites.SUITES.keys()
    assert suites.describe_families().keys() == suites.FAMILIES.keys()
    for lines in (suites.describe_tasks(), suites.describe_suites(), suites.describe_families()):
        assert all(line and "\n" not in line for line in lines.values())
    for entries, need_data in ((suites.TASKS, 25), (suites.FAMILIES, 2), (suites.SUITES, 2)):
        built = {name: made for name, build in entries.items() if (made := attempt(build)) is not None}
        assert len(built) >= len(entries) - need_data
        for name, made in built.items():
            members = [task.name for task in made] if entries is suites.SUITES else [made.name]
            assert len(set(members)) == len(members)
            assert entries is suites.SUITES or members == [name]


def attempt(build):
    """What is built; None where it needs data that must be prepared by hand."""
    try:
        return build()
    except DataUnavailable:
        return None


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
