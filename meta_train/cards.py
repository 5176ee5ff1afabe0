"""What a run says of its result: measured losses, and the recipe that goes into card.json."""

from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np

from meta_train import config as configs
from meta_train import mesh, run_directory
from meta_train.config import FactorConfig
from meta_train.outer import Experiment
from meta_train.progress import Reporter


def results(experiment: Experiment, theta: Any, reporter: Reporter) -> dict[str, Any]:
    """Meta-loss of the first weights and of `theta`, on the same whole episodes, on one device."""
    if experiment.mesh is not None:
        experiment = replace(experiment, mesh=None, problems=mesh.here(experiment.problems))
    episodes = experiment.config.scored_episodes * len(experiment.problems)
    with reporter.task(f"measuring the meta-loss on {episodes} fixed episodes"):
        before, after = (
            float(np.mean(experiment.score(each))) for each in (jax.device_get(experiment.initial_theta()), theta)
        )
    return {"meta_loss_before": before, "meta_loss_after": after, "episodes": episodes}


def card(experiment: Experiment, *, step: int, seconds: float, results: dict[str, Any]) -> dict[str, Any]:
    """What a card says of a meta-training run; `pretrained.save` adds the rule, versions, licence and checksum."""
    config = experiment.config
    models = [jax.eval_shape(problem.task.init, jax.random.key(0)).params for problem in experiment.problems]
    sizes = [sum(x.size for x in jax.tree.leaves(model)) for model in models]
    rate = {} if config.factor == FactorConfig() else {"learning_rate": asdict(config.factor)}
    return {
        "recipe": {
            **rate,
            "config": configs.to_json(config),
            "outer_steps": step,
            "inner_steps": step * experiment.inner_steps,
            "seconds": round(seconds, 1),
            "source": run_directory.git_revision(),
        },
        "data": {"family": config.tasks.family, "tasks": [problem.task.name for problem in experiment.problems]},
        "seed": config.seed,
        "horizons": {"low": config.horizon.low, "high": config.horizon.high},
        "sizes": {"low": min(sizes), "high": max(sizes)},
        "results": results,
    }
