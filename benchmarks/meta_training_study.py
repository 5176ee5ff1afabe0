"""What the settings of meta-training are worth, at equal cost: one training run of small_fc for each line.

    python benchmarks/meta_training_study.py --out study.jsonl [--seeds 3] [--figure study.png]

Every run spends the same inner steps, `COST`, whatever its window and pairs. It is scored by its meta-loss on 16 fixed
episodes of what it was trained on, and on tasks that it never saw: perceptrons of `digits-mlp-wide` drawn with another
seed, for 200 steps (unseen), for 1,000 (unseen_5x), for 200 with the weights in units of 0.001 to 1000
(unseen_rescaled); and an autoencoder, a regression and convolutions of the suite `validation`, 200 steps (elsewhere).
Scores are mean training losses per inner step, geometric means over tasks; smaller is better. Runs that the file
already holds are not made again.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from learned_opt import pretrained
from meta_train import trainer
from meta_train.config import (
    EstimatorConfig,
    HorizonConfig,
    MetaOptimizerConfig,
    MetaTrainConfig,
    RuleConfig,
    TasksConfig,
)
from meta_train.horizon import LogUniform
from meta_train.problem import TaskProblem, mean_loss
from meta_train.progress import Reporter
from tasks import suites
from tasks.augmentations import Reparametrised
from tasks.catalogue.entries import Library
from tasks.mixture import draw

COST = 400_000
"""Inner steps of a run, all particles counted."""
UNSEEN = 4
"""Perceptrons that no run sees."""
ELSEWHERE = ("gratings_autoencoder_deep5", "teacher_regression_mlp_deep5", "gratings_conv_deep5")
SCORES = {"trained_on": "o", "unseen": "s", "unseen_5x": "^", "unseen_rescaled": "v", "elsewhere": "D"}
"""What a run is judged by, with its mark in the figure."""

ONE, MANY = TasksConfig("digits-mlp"), TasksConfig("digits-mlp-wide", samples=2)
RESCALED = replace(MANY, family="digits-mlp-rescaled")
SHORT, MIXED, LONG = HorizonConfig(200, 200), HorizonConfig(20, 200), HorizonConfig(20, 1000)
BASE: dict[str, Any] = {"kind": "es-single", "pairs": 8, "window": 20, "sigma": 0.01}
SMALL_FC = RuleConfig(settings={"step_mult": 0.1})
NORMALISED = RuleConfig("celo2_base", {"step_mult": 0.01})
"""small_fc with the step of each tensor brought to one size."""

KINDS = ("es-single", "pes", "truncated-es")

Variant = tuple[str, str, TasksConfig, HorizonConfig, dict[str, Any], RuleConfig]


def variants() -> Iterator[Variant]:
    """Panel, name, tasks, horizon, changes to the estimator, rule."""
    for panel, name, tasks, horizon, changes in _settings():
        yield panel, name, tasks, horizon, changes, SMALL_FC
    for panel, name, tasks, rule in (
        ("augmentation", "none", MANY, SMALL_FC),
        ("augmentation", "rescaled", RESCALED, SMALL_FC),
        ("steps", "small_fc", MANY, SMALL_FC),
        ("steps", "normalised", MANY, NORMALISED),
        ("steps", "relative, scheduled", MANY, RuleConfig("helm", start="expert")),
        ("start", "random", MANY, NORMALISED),
        ("start", "expert", MANY, replace(NORMALISED, start="expert")),
    ):
        yield panel, name, tasks, MIXED, {}, rule


def _settings() -> Iterator[tuple[str, str, TasksConfig, HorizonConfig, dict[str, Any]]]:
    """The variants that do not differ in the rule."""
    for kind in KINDS:
        yield "estimator, one task", kind, ONE, MIXED, {"kind": kind}
    for window in (5, 20, 80):
        yield "window", str(window), ONE, MIXED, {"window": window}
    for pairs in (2, 8, 32):
        yield "pairs", str(pairs), ONE, MIXED, {"pairs": pairs}
    for sigma in (0.001, 0.003, 0.01, 0.03):
        yield "noise scale", str(sigma), ONE, MIXED, {"sigma": sigma}
    for kind in KINDS:
        yield "estimator, mixture", kind, MANY, MIXED, {"kind": kind}
    for shaping in ("none", "standardised"):
        yield "shaping, mixture", shaping, MANY, MIXED, {"shaping": shaping}
    for name, horizon in (("200", SHORT), ("20 to 200", MIXED), ("20 to 1000", LONG)):
        yield "horizon", name, MANY, horizon, {}
    for name, tasks in (
        ("1 fixed", ONE),
        ("1", replace(MANY, samples=1)),
        ("2", MANY),
        ("6", replace(MANY, samples=6)),
    ):
        yield "tasks", name, tasks, MIXED, {}
    for objective in ("mean", "relative"):
        yield "objective, mixture", objective, MANY, MIXED, {"objective": objective}


def config(
    tasks: TasksConfig, horizon: HorizonConfig, changes: dict[str, Any], rule: RuleConfig, seed: int
) -> MetaTrainConfig:
    """A run of `COST` inner steps."""
    estimator = EstimatorConfig(**(BASE | changes))
    particles = 3 if estimator.kind == "truncated-es" else 2
    steps = COST // (tasks.samples * estimator.pairs * particles * estimator.window)
    return MetaTrainConfig(
        tasks, horizon, estimator, MetaOptimizerConfig(learning_rate=6e-3, warmup_steps=max(1, steps // 25)), steps,
        rule=rule, seed=seed, checkpoint_every=10**6, metrics_every=10**6,
        scored_episodes=16,
    )  # fmt: skip


def scores(theta: Any, rule: Any) -> dict[str, float]:
    """The scores on tasks that no run has seen."""
    library = Library(seed=0)
    unseen = draw(suites.family("digits-mlp-wide", library=library), jax.random.key(20261121), UNSEEN)
    rescaled = [Reparametrised(task) for task in unseen]
    asked = {
        "unseen": (unseen, 200),
        "unseen_5x": (unseen, 1000),
        "unseen_rescaled": (rescaled, 200),
        "elsewhere": (tuple(suites.task(name) for name in ELSEWHERE), 200),
    }
    keys = jax.random.split(jax.random.key(7), 8)
    score: Callable[[Any, int], Any] = lambda task, n: _mean(TaskProblem(task, rule, LogUniform(n, n)), theta, keys)
    return {
        name: float(np.exp(np.mean([np.log(np.mean(score(task, n))) for task in tasks])))
        for name, (tasks, n) in asked.items()
    }


_mean = jax.jit(mean_loss)


def main() -> None:
    """Make the runs that are missing, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(line["panel"], line["variant"], line["seed"]) for line in lines}
    # The same run stands in several panels.
    made = {line["run"]: {field: line[field] for field in ("before", *SCORES)} for line in lines}
    for panel, variant, tasks, horizon, changes, rule in variants():
        for seed in range(args.seeds):
            if (panel, variant, seed) in done:
                continue
            wanted = config(tasks, horizon, changes, rule, seed)
            run = hashlib.sha256(str(wanted).encode()).hexdigest()[:16]
            if run not in made:
                with tempfile.TemporaryDirectory() as folder:
                    outcome = trainer.meta_train(wanted, Path(folder) / "run", Reporter(silent=True))
                    loaded = pretrained.load_pretrained(Path(folder) / "run")
                made[run] = {
                    "before": outcome.results["meta_loss_before"],
                    "trained_on": outcome.results["meta_loss_after"],
                } | scores(loaded.theta, loaded.rule)
            line = {"panel": panel, "variant": variant, "seed": seed, "outer_steps": wanted.steps, "run": run}
            line |= made[run]
            print(json.dumps(line), flush=True)
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
    if args.figure:
        figure(lines).savefig(args.figure, dpi=110)


def figure(lines: list[dict[str, Any]]) -> Any:
    """A panel for each question: every run a dot, the median a line; logarithmic losses on unseen tasks."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(line["panel"] for line in lines))
    columns = 3
    rows = -(-len(panels) // columns)
    made = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        here = [line for line in lines if line["panel"] == panel]
        names = list(dict.fromkeys(line["variant"] for line in here))
        for i, (field, mark) in enumerate(SCORES.items()):
            values = [[line[field] for line in here if line["variant"] == name] for name in names]
            place = np.arange(len(names)) + 0.16 * (i - 2)
            axis.plot(np.repeat(place, [len(v) for v in values]), np.concatenate(values), mark, ms=3, color=f"C{i}")
            axis.plot(place, [np.median(v) for v in values], "_", ms=16, color=f"C{i}", label=field.replace("_", " "))
        axis.set(xticks=range(len(names)), xticklabels=names, yscale="log", title=panel)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(SCORES))
    axes[0].set_ylabel("mean training loss")
    return made


if __name__ == "__main__":
    main()
