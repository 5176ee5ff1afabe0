"""Train a small Equinox network with a released learned optimizer.

python examples/equinox_mlp.py [--optimizer helm] [--steps 200]
"""

import argparse

import equinox as eqx
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
    model = eqx.nn.MLP(64, 10, width_size=64, depth=2, key=jax.random.key(0))
    opt = learned_opt.from_pretrained(args.optimizer, num_steps=args.steps)
    state = opt.init(eqx.filter(model, eqx.is_inexact_array))

    def loss_fn(model, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()

    @eqx.filter_jit
    def step(model, state, key):
        rows = jax.random.randint(key, (128,), 0, images.shape[0])
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model, images[rows], labels[rows])
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = opt.update(grads, state, params, value=loss)
        return eqx.apply_updates(model, updates), state

    for i in range(args.steps):
        model, state = step(model, state, jax.random.key(i))
    final = float(loss_fn(model, images, labels))
    print(f"loss after {args.steps} steps of {args.optimizer}: {final:.4f}")
    return final


if __name__ == "__main__":
    main()
