"""Nowcasting networks: trajectories of training runs are collected, networks trained on them and judged.

    collect    `learned-opt nowcast collect`   trajectories of a family of tasks
    train      `learned-opt nowcast train`     WNN+ or NiNo on them
    evaluate   `learned-opt nowcast evaluate`  steps to a target, beside AdamW at its best rate and other rivals

Importing this package loads no JAX.
"""
