"""What the README shows works as it stands there."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert found
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)


def test_the_first_block_is_two_commands() -> None:
    lines = [line for line in blocks("bash")[0].splitlines() if line and not line.startswith("#")]
    assert len(lines) == 2
    assert "meta-train quickstart --out runs/quickstart" in lines[0]
    assert "pytest" in lines[1]
    for line in lines:
        subprocess.run(["bash", "-n", "-c", line], check=True)


def test_commands_shown_exist() -> None:
    """Every `learned-opt` command of the README is understood: its help answers."""
    shown = {match for block in blocks("bash") for match in re.findall(r"learned-opt ([a-z-]+)", block)}
    assert {"meta-train", "evaluate", "export", "list"} <= shown
    for command in sorted(shown):
        done = subprocess.run([sys.executable, "-m", "meta_train", command, "--help"], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, command


def test_links_lead_to_files() -> None:
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if not t.startswith("http")]
    assert targets
    assert not [t for t in targets if not (ROOT / t).exists()]


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_train(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [example.name, "--steps", "60"])
    final = runpy.run_path(str(example))["main"]()
    assert final < 1.0  # from ln 10 = 2.3


@pytest.mark.parametrize("benchmark", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_answer(benchmark: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(benchmark), "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
