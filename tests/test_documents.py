"""What the README shows works as it stands there."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from learned_opt import rules

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
README = DOCUMENTS[0].read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks("python", document.read_text()):
        exec(compile(block, document.name, "exec"), namespace)


def test_the_table_of_optimizers_is_true() -> None:
    """Every rule is in it, with the number of weights it has."""
    rows = re.findall(r"^\| \[`(\w+)`\]\(\S+\) \|[^|]*\| ([\d,]+) \|", (ROOT / "docs/optimizers.md").read_text(), re.M)
    made = [rules.make_rule(name) for name in rules.rule_names()]
    size = lambda rule: sum(x.size for x in jax.tree.leaves(jax.eval_shape(rule.init, jax.random.key(0))))
    counts = {type(rule).__name__: size(rule) for rule in made}
    assert {name: int(count.replace(",", "")) for name, count in rows} == counts


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", document.read_text()) if not t.startswith("http")]
    assert not [t for t in targets if not (document.parent / t).exists()]


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
