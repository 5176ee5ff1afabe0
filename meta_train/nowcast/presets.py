"""Named pairs of a collection and a training run. Each description states what they cost, as measured."""

from dataclasses import dataclass, field

from meta_train.nowcast.config import CollectConfig, TrainConfig


@dataclass(frozen=True)
class Preset:
    """Settings with what is known of them."""

    description: str
    collect: CollectConfig = field(default_factory=CollectConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


PRESETS = {
    "nowcast-small": Preset(
        description="WNN+ or NiNo with 32 units on 12 embedded tasks, 6 runs of 2,000 steps each: on two cores 3 "
        "minutes to collect, 13 to train WNN+ and, with --steps 1000, 14 NiNo, measured beside other jobs",
        collect=CollectConfig(),
        train=TrainConfig(settings={"hidden": 32}),
    ),
    "nowcast-debug": Preset(
        description="every part at its smallest: seconds, and weights of no use",
        collect=CollectConfig(
            family="digits-mlp", tasks=1, runs=2, steps=60, every=2, rate="sampled", low=1e-3, high=1e-2
        ),
        train=TrainConfig(
            settings={"hidden": 4},
            steps=6,
            tasks_per_step=1,
            windows=2,
            strides=(1,),
            checkpoint_every=2,
            metrics_every=2,
            validation=2,
        ),
    ),
}
