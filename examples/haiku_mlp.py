"""Train a small Haiku network with a released learned optimizer, in plain JAX.

python examples/haiku_mlp.py [--optimizer helm] [--steps 200]
"""

import argparse
from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import learned_opt


def main() -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", default="helm", help="a release, or the directory of a run")
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images, jnp.float32) / 16, jnp.asarray(labels)
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([64, 64, 10])(x)))
    params = network.init(jax.random.key(0), images[:1])
    opt = learned_opt.from_pretrained(args.optimizer, num_steps=args.steps)
    state = opt.init(params)

    def loss_fn(params, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, x), y).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, key):
        rows = jax.random.randint(key, (128,), 0, images.shape[0])
        loss, grads = jax.value_and_grad(loss_fn)(params, images[rows], labels[rows])
        updates, state = opt.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    for i in range(args.steps):
        params, state = step(params, state, jax.random.key(i))
    final = float(loss_fn(params, images, labels))
    print(f"loss after {args.steps} steps of {args.optimizer}: {final:.4f}")
    return final


if __name__ == "__main__":
    main()
