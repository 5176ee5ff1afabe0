"""The import rule, the start-up time, and life beside a user's own folders."""

import ast
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"learned_opt": {"tasks", "meta_train"}, "tasks": {"learned_opt", "meta_train"}}


def imported(source: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    packages = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "").split(".")[0])
    return packages


@pytest.mark.parametrize("package", FORBIDDEN)
def test_import_rule(package: str) -> None:
    sources = list((ROOT / package).rglob("*.py"))
    assert sources
    offenders = {str(s.relative_to(ROOT)): imported(s) & FORBIDDEN[package] for s in sources}
    assert not {name: bad for name, bad in offenders.items() if bad}


def run(code: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


def test_import_beside_foreign_folders(tmp_path: Path) -> None:
    """A user's own packages `tasks`, `meta_train` and `checkpoints` in the working directory win the import race."""
    for name in ("tasks", "meta_train", "checkpoints"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a foreign package was imported')")
    code = """
import json, learned_opt, jax, jax.numpy as jnp
names = learned_opt.list_pretrained()
opt = learned_opt.from_pretrained(names[0], num_steps=10)
params = {"w": jnp.ones((3, 2))}
updates, _ = opt.update(params, opt.init(params), params, value=jnp.float32(1.0))
print(json.dumps({"names": names, "moved": bool(jnp.any(updates["w"] != 0))}))
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "small-fc-digits" in report["names"]
    assert report["moved"]


def test_importing_computes_nothing(tmp_path: Path) -> None:
    """Multi-host start-up needs that no import touches a JAX device."""
    code = """
import sys, learned_opt, learned_opt.rules
assert "jax" not in sys.modules, "import learned_opt loads jax"
import learned_opt.pretrained, learned_opt.rules.small_fc
import meta_train.trainer, meta_train.evaluate.runner, tasks.suites
"""
    done = run(code, tmp_path, JAX_PLATFORMS="no_such_platform")  # starting a back end would fail
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["meta-train", "quickstart", "--help"], ["evaluate", "--help"]])
def test_help_answers_before_jax_is_loaded(arguments: list[str]) -> None:
    code = f"""
import sys
from meta_train.cli import main
try:
    status = main({arguments!r})
except SystemExit as exit_:
    status = exit_.code or 0
assert "jax" not in sys.modules
sys.exit(status)
"""
    seconds = []
    for _ in range(3):
        start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = run(code, ROOT)
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()
    # Of the processor, 0.2 s: a busy machine is not slow code.
    assert min(seconds) < 1.0
