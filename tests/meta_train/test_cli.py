import resource
import subprocess
import sys
from pathlib import Path

import pytest

from meta_train import cli
from meta_train.presets import PRESETS


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["evalate"], "'evalate': did you mean evaluate?"),
        (["frobnicate"], "expected one of meta-train, evaluate, report, tasks, export, estimators, nowcast, list"),
        (["meta-train", "quikstart"], "preset 'quikstart': did you mean quickstart?"),
        (["meta-train", "debug"], "--out is missing"),
        (["meta-train", "debug", "--out", "r", "--estimator.windw", "3"], "did you mean --estimator.window"),
        (["meta-train", "debug", "--out", "r", "--estimator.kind", "pess"], "invalid choice 'pess'"),
        (["meta-train", "debug", "--out", "r", "--steps", "many"], "--steps: invalid literal for int()"),
        (["meta-train", "debug", "--out", "r", "--steps", "0"], "steps 0: expected from 1 to"),
        (["meta-train", "debug", "--out", "r", "--horizon.low", "50"], "horizon.high 20: expected at least"),
        (["meta-train", "debug", "--out"], "Missing value for argument '--out'"),
        (["meta-train", "debug", "--out", "r", "--tasks.family", "digits-mpl"], "did you mean digits-mlp"),
        (["meta-train", "debug", "--out", "r", "--rule.name", "small_fcc"], "'small_fcc': did you mean 'small_fc'?"),
        (
            ["meta-train", "debug", "--out", "r", "--rule.settings", "hiden", "4"],
            "no setting 'hiden': did you mean 'hidden'",
        ),
        (
            ["meta-train", "debug", "--out", "r", "--rule.settings", "hidden", "0"],
            "hidden is 0: expected a whole number",
        ),
        (
            ["meta-train", "debug", "--out", "r", "--rule.settings", "step_mult", "nan"],
            "step_mult is nan: expected a finite",
        ),
        (["meta-train", "debug", "--out", "r", "--seed", "99999999999999"], "seed 99999999999999: expected from 0 to"),
        (
            ["meta-train", "debug", "--out", "r", "--estimator.sigma", "inf"],
            "estimator.sigma inf: expected a finite number",
        ),
        (["meta-train", "debug", "--out", ""], "--out is the working directory"),
        (
            ["evaluate", "--optimizers", "adam", "--suite", "digits", "--out", "e", "--trials", "200"],
            "trials: 200, expected 1 to 42",
        ),
        (["export", "--name", "x"], "missing RUN"),
        (["export", "nowhere", "--name", "x"], "nowhere is no run: it has no config.json; `learned-opt meta-train"),
        (["export", "nowhere", "--name", "No/good"], "name 'No/good': expected lower-case letters"),
        (["list", "suits"], "list 'suits': did you mean suites"),
        (["evaluate", "--suite", "digits"], "missing --optimizers, --out"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    args: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("learned-opt: ") and expected in line
    assert not captured.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args", [["--help"], ["meta-train", "--help"], ["meta-train", "quickstart", "--help"], ["list", "presets"]]
)
def test_help_is_instant_and_loads_no_jax(args: list[str]) -> None:
    program = (
        "import sys\nfrom meta_train import cli\ntry:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "sys.exit('jax' in sys.modules)"
    )
    seconds = []
    for _ in range(3):
        start = cpu_seconds()
        done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, cwd=ROOT)
        seconds.append(cpu_seconds() - start)
        assert done.returncode == 0, done
        assert "quickstart" in done.stdout or "meta-train" in done.stdout
    assert min(seconds) < 0.5


def cpu_seconds() -> float:
    """Of the programs that have ended: a busy machine is not slow code."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_top_level_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in cli.COMMANDS)


def test_no_command_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2


def test_help_shows_the_values_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["meta-train", "quickstart", "--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "Outer steps of the whole run" in printed
    assert f"(default: {PRESETS['quickstart'].config.steps})" in printed


def test_list_names_what_others_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in (*PRESETS, "digits-mlp", "digits", "adam"):
        assert f"\n  {name} " in printed


def test_reader_that_goes_away() -> None:
    program = f"{sys.executable} -m meta_train list presets | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["meta-train", "debug", "--out", "run", "--dry-run"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["theta"] == "197 weights of small_fc"
    assert rows["particles"].startswith("2 antithetic pairs, 20 inner steps")
    assert rows["tasks"] == "digits_mlp_32"
    assert not list(tmp_path.iterdir())


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("name", "value"), [("hidden", "2.5"), ("hidden", "abc"), ("step_mult", "xx")])
def test_setting_of_a_wrong_type_is_one_line(name: str, value: str) -> None:
    """In a process of its own: here the type checker of the tests would speak first."""
    command = [sys.executable, "-m", "meta_train", "meta-train", "debug", "--out", "r", "--rule.settings", name, value]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"setting {name} is" in line and "expected" in line
    assert not Path("r").exists()


def test_after_a_signal_python_is_not_taken_down() -> None:
    """Threads that still compile would end it in a segmentation fault."""
    code = "import atexit, meta_train.__main__ as m; atexit.register(print, 'down'); m.main = lambda: {}; m.run()"
    for status, printed in ((130, ""), (2, "down\n"), (0, "down\n")):
        done = subprocess.run([sys.executable, "-c", code.format(status)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (status, printed)
