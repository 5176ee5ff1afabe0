"""Optimizers that optax lacks, one file each, as optax transforms from the equations of their papers.

Those named `scale_by_…` give an ascent direction; `optax.scale_by_learning_rate` follows them.
"""
