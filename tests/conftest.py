"""Settings that every test shares; they must be in place before JAX starts."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

# More threads than virtual devices: CPU collectives deadlock otherwise on machines with few cores.
os.environ.setdefault("NPROC", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The second flag halves the time of compiling programs that run for milliseconds. A jaxlib that does not know a flag
# ends the process at it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data sets are prepared in a folder of the test session, never in the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tensorflow_datasets")
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield folder


OPTIMIZATIONS = {"quick": False}
"""Whether most optimizations of the compiler are off."""


@pytest.fixture(scope="module", autouse=True)
def compilation(request: pytest.FixtureRequest) -> None:
    """Quick for modules with the mark and for `tests/learned_opt`; full for the others.

    JAX finds compiled programs again whatever their optimizations were, and those differ in the last bits: none
    outlive a change.
    """
    marked = request.node.get_closest_marker("quick_compilation") is not None
    quick = marked or request.path.parent.name == "learned_opt"
    if OPTIMIZATIONS["quick"] != quick:
        jax.config.update("jax_disable_most_optimizations", quick)
        jax.clear_caches()
        OPTIMIZATIONS["quick"] = quick
