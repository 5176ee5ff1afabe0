"""Named configurations. Each description states what a run costs and what it reaches, as measured."""

from dataclasses import dataclass

from meta_train.config import (
    EstimatorConfig,
    HorizonConfig,
    MetaOptimizerConfig,
    MetaTrainConfig,
    RuleConfig,
    TasksConfig,
)


@dataclass(frozen=True)
class Preset:
    """A configuration with what is known of it."""

    description: str
    """One line: what it does, measured cost, measured result."""
    config: MetaTrainConfig


PRESETS: dict[str, Preset] = {
    "quickstart": Preset(
        description="small_fc on an MLP classifying digits, ES-Single over 20 to 200 steps: 1 minute on two CPU cores, "
        "mean loss 0.096 (Adam at its best of 7 rates: 0.161)",
        config=MetaTrainConfig(
            tasks=TasksConfig(family="digits-mlp"),
            # Short episodes among the long ones: with 200 steps alone, some seeds stay at a rule that does nothing.
            horizon=HorizonConfig(low=20, high=200),
            estimator=EstimatorConfig(kind="es-single", pairs=8, window=20, sigma=0.01),
            meta_optimizer=MetaOptimizerConfig(learning_rate=6e-3, warmup_steps=100),
            steps=2500,
            # Published: 0.001 per unit of output, for which the weights would first have to grow a hundredfold.
            rule=RuleConfig(settings={"step_mult": 0.1}),
        ),
    ),
    "helm": Preset(
        description="the hands-free release's architecture on 16 augmented tasks of eleven families, 50 to 1,000 steps",
        config=MetaTrainConfig(
            tasks=TasksConfig(family="wide", samples=16),
            horizon=HorizonConfig(low=50, high=1000),
            estimator=EstimatorConfig(
                kind="es-single",
                pairs=4,
                window=50,
                sigma=0.02,
                objective="relative",
                # Every task has the same say, whatever its losses are.
                shaping="standardised",
                # Three numbers in logarithms, which act on the whole run.
                scales={"schedule": 4.0},
            ),
            meta_optimizer=MetaOptimizerConfig(learning_rate=2e-3, warmup_steps=50),
            steps=1500,
            rule=RuleConfig(name="helm"),
            checkpoint_every=100,
            metrics_every=10,
            scored_episodes=4,
        ),
    ),
    "debug": Preset(
        description="every part of quickstart at its smallest: seconds, and weights of no use",
        config=MetaTrainConfig(
            tasks=TasksConfig(family="digits-mlp"),
            horizon=HorizonConfig(low=8, high=20),
            estimator=EstimatorConfig(kind="pes", pairs=2, window=5, sigma=0.01),
            meta_optimizer=MetaOptimizerConfig(learning_rate=3e-3, warmup_steps=2),
            steps=30,
            checkpoint_every=10,
            metrics_every=3,
            scored_episodes=2,
        ),
    ),
}
