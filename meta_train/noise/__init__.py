"""Perturbations of theta as functions of a key.

A noise draws `eps` for one antithetic pair and one block of inner steps; the same arguments always give the same
draw, so a particle stores a counter and never a copy of theta. What a draw looks like is the noise's own affair; an
estimator only adds draws, perturbs theta with them, and turns a weighted sum of them into a gradient.
"""

from meta_train.noise.base import Draw, Noise, Theta
from meta_train.noise.dense import Dense
from meta_train.noise.guided import Guided
from meta_train.noise.low_rank import LowRank

__all__ = ["Dense", "Draw", "Guided", "LowRank", "Noise", "Theta"]
