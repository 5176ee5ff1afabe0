"""A task that trains in microseconds, for the tests of the evaluation."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax

import learned_opt
from learned_opt.pretrained import Pretrained
from tasks import suites
from tasks.task import Variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linear:
    """Least squares in 3 dimensions, 8 examples a batch, noise in the targets."""

    x: jax.Array
    y: jax.Array
    name: str = field(default="linear", metadata={"static": True})
    loss_cap: float = field(default=10.0, metadata={"static": True})

    def init(self, key):
        return Variables({"linear": {"w": jax.random.uniform(key, (3,))}}, {})

    def batch(self, key):
        rows = jnp.int32(32 * jax.random.uniform(key, (8,)))
        return self.x[rows], self.y[rows]

    def loss(self, params, state, batch, key):
        x, y = batch
        y = y + 0.1 * jax.random.uniform(key, y.shape)
        return jnp.mean((x @ params["linear"]["w"] - y) ** 2), state

    def evaluate(self, params, state, split):
        rows = slice(0, 32) if split == "train" else slice(32, 48)
        return self.loss(params, state, (self.x[rows], self.y[rows]), jax.random.key(0))[0]


def linear(name="linear", scale=1.0):
    """`scale` of the inputs: the larger, the lower the rates that diverge."""
    rng = np.random.default_rng(0)
    x = np.float32(scale * rng.normal(size=(48, 3)))
    return Linear(jnp.array(x), jnp.array(x @ np.float32([1.0, -2.0, 0.5])), name)


class ScaledSGD:
    """A learned rule: theta is the rate; the step shrinks to zero at the last update, and with the loss."""

    name = "scaled_sgd"

    def transform(self, theta, *, num_steps=None):
        def update(updates, count, params=None, *, value, **extra):
            scale = -theta["rate"] * (1.0 - count / num_steps) * value / (1.0 + value)
            return jax.tree.map(lambda g: scale * g, updates), count + 1

        return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)


def install(patch, rate=0.3):
    """A suite of two tasks, the second with inputs so large that SGD diverges, and one pretrained name."""
    patch.setattr(suites, "suite", lambda name: (linear("small"), linear("large", scale=20.0)))
    patch.setitem(vars(learned_opt), "list_pretrained", lambda: ["decayed_sgd"])
    mine = Pretrained(rule=ScaledSGD(), theta={"rate": jnp.float32(rate)}, card={})
    patch.setitem(vars(learned_opt), "load_pretrained", lambda name: mine)
