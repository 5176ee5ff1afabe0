"""How the weights of a learned optimizer are found, and judged.

    cli                                 `learned-opt`
    config, presets                     what a run is
    trainer, outer                      the loop, and one step of it
    problem, horizon, noise, estimators the meta-gradient
    run_directory, checkpointing, metrics, progress, signals
    dry_run, export, evaluate

Importing this package loads no JAX.
"""
