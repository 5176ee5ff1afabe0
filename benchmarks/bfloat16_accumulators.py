"""What bfloat16 accumulators cost in quality: the same training runs with float32 and bfloat16 accumulators.

    python benchmarks/bfloat16_accumulators.py [--optimizer small-fc-digits] [--steps 200] [--seeds 10]

Trains the MLP 64-32-10 on digits, all seeds at once. The last line is JSON:

    final_loss         training loss at the end for each dtype, mean over seeds and its standard error
    ratio              mean final loss with bfloat16 / with float32
    ratio_of_means     the same for the loss averaged over the run
"""

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.pretrained import load_pretrained
from tasks import suites


def losses(pretrained: Any, dtype: Any, steps: int, seeds: int) -> np.ndarray:
    """Training loss [seeds, steps]."""
    opt = pretrained.rule.transform(pretrained.theta, num_steps=steps, accumulator_dtype=dtype)

    @jax.jit
    def run(task: Any, seed: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(0), seed)
        params, model_state = task.init(key)

        def step(carry: Any, t: Any) -> Any:
            params, model_state, state = carry
            k = jax.random.fold_in(key, t + 1)
            loss = lambda params: task.loss(params, model_state, task.batch(k), k)
            (value, model_state), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, state = opt.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), model_state, state), value

        return jax.lax.scan(step, (params, model_state, opt.init(params)), jnp.arange(steps))[1]

    task = suites.task("digits_mlp_32")
    return np.stack([np.asarray(run(task, seed)) for seed in range(seeds)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", default="small-fc-digits")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    pretrained = load_pretrained(args.optimizer)
    full, half = (losses(pretrained, dtype, args.steps, args.seeds) for dtype in (jnp.float32, jnp.bfloat16))
    last = max(args.steps // 20, 1)
    final = {name: x[:, -last:].mean(axis=1) for name, x in (("float32", full), ("bfloat16", half))}
    print(
        json.dumps(
            {
                "benchmark": "bfloat16_accumulators",
                "optimizer": args.optimizer,
                "steps": args.steps,
                "final_loss": {
                    name: [round(float(x.mean()), 5), round(float(x.std(ddof=1) / len(x) ** 0.5), 5)]
                    for name, x in final.items()
                },
                "ratio": round(float(final["bfloat16"].mean() / final["float32"].mean()), 4),
                "ratio_of_means": round(float(half.mean() / full.mean()), 4),
            }
        )
    )


if __name__ == "__main__":
    main()
