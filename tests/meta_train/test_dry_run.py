"""What a run would do and cost, here and on devices that are not here."""

import dataclasses

import jax
import pytest

from learned_opt.errors import InputError
from meta_train import cli, mesh, outer, planner
from meta_train.plan_config import PlanConfig
from meta_train.presets import PRESETS
from tasks.errors import InputError as TaskInputError

pytestmark = pytest.mark.quick_compilation


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_lowers_for_tpu_and_cuda(preset: str) -> None:
    """On 512 devices that are not here, by one all-reduce of theta and a few metrics a step."""
    config = PRESETS[preset].config
    few = dataclasses.replace(config.tasks, samples=min(config.tasks.samples, 2))
    config = dataclasses.replace(config, estimator=dataclasses.replace(config.estimator, pairs=512), tasks=few)
    try:
        experiment = outer.build(config)
    except TaskInputError as error:
        pytest.skip(f"data that are not here: {error}")
    lowered = planner.lower(experiment, 512, ("tpu", "cuda"))
    if mesh.exchanges_once(experiment.estimator):
        weights = sum(x.size for x in jax.tree.leaves(experiment.shapes().theta))
        (message,) = lowered.reduced
        assert 4 * weights < message <= 4 * (weights + len(experiment.problems) * (512 + 16))
    for kind in ("all_gather", "all_to_all", "collective_permute", "reduce_scatter"):
        assert f"stablehlo.{kind}" not in lowered.text


def test_plan_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--dry-run", "--plan-devices", "64", "--plan-platform", "cuda", "--plan-speedup", "50"]
    assert cli.main(["meta-train", "debug", *wanted]) == 0
    rows = {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}
    assert rows["devices"].startswith("64 x cuda")
    assert rows["pairs"] == "64 on 64 devices, 1 on each, of 2: --estimator.pairs 64"
    assert rows["network"].startswith("1 all-reduce of 1.08 kB a step")  # 197 weights, 12 sums, 64 largest values
    assert "pairs on a device of 16 GB" in rows["fits"]
    assert 0 < float(rows["efficiency"].split(" %")[0]) < 100


def test_a_plan_that_cannot_be_measured_and_one_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    """One pair alone of an estimator that compares pairs; and shaping, which XLA's partitioner spreads."""
    plan = lambda kind, *more: ["meta-train", "debug", "--estimator.kind", kind, *more, "--dry-run", "--plan-devices"]
    assert cli.main([*plan("mix", "--estimator.pairs", "8"), "8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--plan-devices 8: the 1 of 8 pairs of one device cannot be measured alone" in line
    assert cli.main([*plan("pes", "--estimator.shaping", "running"), "4"]) == 0
    rows = {line[:14].strip(): line[14:] for line in capsys.readouterr().out.splitlines()}
    assert rows["network"].startswith("not known: pes with shaping running") and rows["efficiency"] == "not known"
    assert rows["outer step"].startswith("more than")


def test_model_of_the_all_reduce() -> None:
    """Two devices, 1 GB at 1 GB/s: each sends half of it twice; and a message of nothing is none."""
    wanted = PlanConfig(plan_bandwidth=1.0, plan_latency=0.0)
    assert planner.all_reduce_seconds(10**9, 2, wanted) == 1.0
    assert planner.all_reduce_seconds(10**9, 1, wanted) == 0.0
    late = PlanConfig(plan_bandwidth=1e6, plan_latency=5.0)
    assert planner.all_reduce_seconds(4, 512, late) == pytest.approx(2 * 9 * 5e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--dry-run", "--plan-memory", "32"], "--plan-devices is missing"),
        (["--plan-devices", "4", "--out", "x"], "expected --dry-run with them"),
        (["--dry-run", "--plan-devices", "0"], "--plan-devices 0: expected from 1 to"),
        (["--dry-run", "--plan-devices", "4", "--plan-bandwidth", "0"], "--plan-bandwidth 0.0: expected a finite"),
    ],
)
def test_plans_that_cannot_be(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["meta-train", "debug", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_plan_needs_devices() -> None:
    with pytest.raises(InputError, match="--plan-devices is missing"):
        planner.plan(PRESETS["debug"].config, PlanConfig())
