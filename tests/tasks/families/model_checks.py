"""What the tests of families share: made-up data, and one compiled program that trains copies of a task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tasks.data import Dataset, Split
from tasks.model_task import ModelTask
from tasks.sources import Examples, Windows

KEY = jax.random.key(0)
random = np.random.default_rng


def examples(classes: int | None = None, **fields) -> Examples:
    split = Split({name: jnp.asarray(array) for name, array in fields.items()})
    return Examples(Dataset(split, split, "made_up", classes))


def walk(classes: int, length: int, count: int = 3000) -> Windows:
    """Windows of a walk that stays or takes a step up, either with odds 1/2: ln 2 nats a token."""
    token = np.cumsum(random(0).integers(0, 2, count)) % classes
    split = Split({"token": jnp.asarray(token, jnp.int32)})
    return Windows(Dataset(split, split, "walk", classes), length)


def perturbed(task: ModelTask, size: float = 0.3):
    """Initial variables with noise on every array, so that no bias is zero and no gain one."""
    params, state = jax.device_get(jax.jit(task.init)(KEY))
    leaves, structure = jax.tree.flatten(params)
    noise = [size * random(i).normal(size=leaf.shape).astype(np.float32) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, [jnp.asarray(a + b) for a, b in zip(leaves, noise, strict=True)]), state


def numpy_loss(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean cross entropy of (..., C) against (...,), in double precision."""
    logits = np.asarray(logits, np.float64).reshape(-1, logits.shape[-1])
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), np.asarray(label).reshape(-1)])


def check_training(task: ModelTask, ratio: float, rate: float = 1e-2, steps: int = 60, copies: int = 4) -> None:
    """Copies start near the initial loss, have finite gradients and end below `ratio` of it."""
    adam = optax.adam(rate)

    def train(task, key):
        params, state = task.init(key)

        def step(carry, i):
            params, state, opt_state = carry
            draw, noise = jax.random.split(jax.random.fold_in(key, i))
            (loss, state), grads = jax.value_and_grad(task.loss, has_aux=True)(params, state, task.batch(draw), noise)
            updates, opt_state = adam.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), state, opt_state), (loss, optax.tree.norm(grads))

        return jax.lax.scan(step, (params, state, adam.init(params)), jnp.arange(steps))[1]

    keys = jax.random.split(KEY, copies)
    losses, norms = jax.device_get(jax.jit(jax.vmap(train, (None, 0)))(task, keys))
    assert np.isfinite(losses).all() and np.isfinite(norms).all() and norms.min() > 0
    np.testing.assert_allclose(losses[:, 0].mean(), task.model.initial_loss, rtol=0.25)
    assert losses[:, -10:].mean() < ratio * losses[:, 0].mean()
