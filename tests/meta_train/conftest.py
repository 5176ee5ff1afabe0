"""Numbers of 64 bits; programs that a test compiles are found again by the next, and by the processes it starts."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
import runs
from jax.experimental.compilation_cache import compilation_cache

from meta_train import cli


@pytest.fixture
def x64() -> Iterator[None]:
    """Numbers of 64 bits."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A persistent compilation cache for this process and, through the environment, for others."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    optimizations = "JAX_DISABLE_MOST_OPTIMIZATIONS"  # other processes compile quickly, too
    os.environ[optimizations] = "true"
    before = {name: getattr(jax.config, name) for name in settings}
    compilation_cache.reset_cache()  # JAX decides at its first compilation whether there is a cache
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    yield
    compilation_cache.reset_cache()
    for name, value in before.items():
        jax.config.update(name, value)
        del os.environ[name.upper()]
    del os.environ[optimizations]


@pytest.fixture(scope="module")
def undisturbed(compile_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A debug run from start to end."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert cli.main(runs.command(out)) == 0
    return out
