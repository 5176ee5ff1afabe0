"""Named configurations. Each description states what a run costs and what it reaches, as measured."""

from dataclasses import dataclass

from meta_train.config import (
    EstimatorConfig,
    FactorConfig,
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


def _celo(
    rule: str,
    settings: dict[str, int | float | str],
    *,
    learning_rate: float,
    start: str | None = None,
    frozen: dict[str, float] | None = None,
) -> MetaTrainConfig:
    """What Celo, its baselines and Celo2 were meta-trained with (arXiv:2501.12670, arXiv:2602.19142), see docs."""
    return MetaTrainConfig(
        tasks=TasksConfig(family="celo-four", samples=4),
        horizon=HorizonConfig(low=100, high=2000),
        estimator=EstimatorConfig(kind="pes", pairs=8, window=50, sigma=0.01, scales=frozen or {}),
        # A constant rate, and no clipping.
        meta_optimizer=MetaOptimizerConfig(
            learning_rate=learning_rate, warmup_steps=0, final_fraction=1.0, clip_norm=1e9, weight_decay=1e-4
        ),
        steps=100_000,
        rule=RuleConfig(rule, settings, start),
        checkpoint_every=1000,
    )


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
        description="Helm's constants, from Adam's direction in relative steps: whole runs of 200 to 1,000 steps on 16 "
        "tasks of ten families: 1.7 hours on two CPU cores; within 3 % of the release without its hidden units",
        config=MetaTrainConfig(
            tasks=TasksConfig(family="deep", samples=16),
            horizon=HorizonConfig(low=200, high=1000),
            estimator=EstimatorConfig(
                kind="full-es",
                pairs=4,
                window=1000,
                sigma=0.2,
                objective="relative",
                # Every task has the same say, whatever its losses are.
                shaping="running",
                # With all 1,541 weights the signal of an outer step drowns in its noise.
                scales={
                    "own": 0.0,
                    "mean": 0.0,
                    "out": 0.0,
                    "mix/w": 0.0,
                    "schedule": 2.0,
                    "zero": 2.0,
                    "step/w": 0.15,
                    "step/b": 1.0,
                    "mix/b": 1.0,
                },
            ),
            meta_optimizer=MetaOptimizerConfig(learning_rate=0.05, warmup_steps=3),
            steps=80,
            rule=RuleConfig(name="helm"),
            seed=5,
            checkpoint_every=5,
            metrics_every=5,
            scored_episodes=2,
        ),
    ),
    "celo2-wide": Preset(
        description="from the composable release, which it has not improved on yet: Celo2's two last layers, under a "
        "cosine and rates from 0.002 to 0.01, on 8 augmented tasks drawn from eleven families over 100 to 1,000 steps",
        config=MetaTrainConfig(
            tasks=TasksConfig(family="wide", samples=8),
            horizon=HorizonConfig(low=100, high=1000),
            estimator=EstimatorConfig(
                kind="es-single",
                pairs=4,
                window=50,
                sigma=0.03,
                objective="relative",
                shaping="running",
                scales={"layers/0": 0.0},
            ),
            meta_optimizer=MetaOptimizerConfig(learning_rate=2e-3, warmup_steps=10),
            steps=250,
            rule=RuleConfig(name="celo2", settings={"step_mult": 1.0, "adam_mult": 1.0}, start="expert"),
            factor=FactorConfig(low=2e-3, high=1e-2, cosine=True),
            seed=7,
            checkpoint_every=50,
            metrics_every=10,
            scored_episodes=2,
        ),
    ),
    "celo-phase1": Preset(
        description="Celo's recipe, its first phase: the network alone, PES on four 8x8 tasks over 100 to 2,000 "
        "steps: 9 hours on two CPU cores",
        config=_celo("celo", {"phase": 1}, learning_rate=3e-4),
    ),
    "celo": Preset(
        description="Celo's recipe, its second phase: the scheduler alone; --rule.start names the run of celo-phase1: "
        "11 hours on two CPU cores",
        config=_celo("celo", {}, learning_rate=3e-4, start="runs/celo-phase1", frozen={"bank": 0.0, "controls": 0.0}),
    ),
    "celo2-base": Preset(
        description="Celo2-base's recipe: PES on the same tasks and steps: 4.5 hours on two CPU cores",
        config=_celo("celo2_base", {}, learning_rate=1e-4),
    ),
    "small_fc": Preset(
        description="small_fc by the recipe of Celo's baselines: PES on the same tasks and steps: 4 hours on two cores",
        config=_celo("small_fc", {}, learning_rate=1e-4),
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
