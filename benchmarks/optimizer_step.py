"""Time, memory and first call of one step of every rule, beside compiled `optax.adam`.

    python benchmarks/optimizer_step.py [--parameters 1000000] [--model matrix|transformer] [--rules small_fc,velo]
                                        [--rounds 20] [--skip-first-call]

A step is `update` and `apply_updates` in one program, with parameters and state donated. All programs run in one
process in turn; a ratio is the median over rounds of time / time of Adam in the same round. The last line is JSON:

    ratio             rule -> time of a step / time of a step of Adam (targets on a CPU, 1M parameters: small_fc 10,
                      velo, celo and celo2_base 15; on a GPU, 100M in transformer shapes: 3)
    milliseconds      the same in milliseconds
    share_of_roofline bytes that a step must move / bytes that this machine copies in the time it took
    temporary_bytes_per_parameter   of the compiled step, at 10M parameters (target: 16)
    state_bytes_per_parameter       float32 and bfloat16 accumulators (target: 16 and 8)
    first_call_seconds              tracing and compiling a step of a transformer of 200 tensors (target: 10)
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt import rules

# Floats per parameter that a step reads and writes at the least: g and p; m and r twice; p again.
FLOATS = {"adam": 7, "mlp": 15, "nn_adam": 7, "rnn_mlp": 23, "celo_adam": 7}
LEARNED = 11


def matrix(parameters: int) -> dict[str, Any]:
    """One square matrix."""
    n = round(parameters**0.5)
    return {"w": jnp.ones((n, n))}


def transformer(parameters: int, layers: int = 16) -> dict[str, Any]:
    """A decoder-only transformer of 12 tensors a layer and three more, about as many parameters as asked."""
    d = max(8 * round((parameters / (12 * layers)) ** 0.5 / 8), 8)
    block = {
        **{name: jnp.ones((d, d)) for name in ("query", "key", "value", "out")},
        **{"up": jnp.ones((d, 4 * d)), "down": jnp.ones((4 * d, d)), "up_bias": jnp.ones(4 * d)},
        **{name: jnp.ones(d) for name in ("down_bias", "scale_1", "offset_1", "scale_2", "offset_2")},
    }
    blocks = {f"layer_{i}": jax.tree.map(jnp.array, block) for i in range(layers)}
    return {"embedding": jnp.ones((256, d)), "position": jnp.ones((128, d)), "scale": jnp.ones(d)} | blocks


def optimizers(names: list[str], dtype: Any) -> dict[str, optax.GradientTransformationExtraArgs]:
    """Adam and the rules with weights as they are before meta-training."""
    made = {"adam": optax.with_extra_args_support(optax.adam(1e-3, mu_dtype=dtype))}
    for name in names:
        rule: Any = rules.make_rule(name)
        theta = jax.jit(rule.init)(jax.random.key(0))
        made[name] = rule.transform(theta, num_steps=1000, accumulator_dtype=dtype)
    return made


def step_of(opt: optax.GradientTransformationExtraArgs) -> Any:
    """The jitted step `(params, state, gradients) -> (params, state)`."""

    def step(params: Any, state: Any, gradients: Any) -> Any:
        updates, state = opt.update(gradients, state, params, value=jnp.float32(1.0))
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def stepper(opt: optax.GradientTransformationExtraArgs, params: Any) -> Callable[[], Any]:
    """Runs one step and waits for it."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    random = lambda keys: tree.unflatten([jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)])
    gradients, params = random(keys), random(keys[::-1])
    step, state = step_of(opt), opt.init(params)

    def run() -> Any:
        nonlocal params, state
        params, state = step(params, state, gradients)
        return jax.block_until_ready((params, state))

    return run


def size(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def memory(opt: optax.GradientTransformationExtraArgs, params: Any) -> float:
    """Temporary bytes per parameter of the compiled step."""
    state = jax.eval_shape(opt.init, params)
    compiled = step_of(opt).lower(params, state, params).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (size(params) / 4)


def first_call(opt: optax.GradientTransformationExtraArgs, params: Any) -> float:
    """Seconds for tracing and compiling."""
    state = jax.eval_shape(opt.init, params)
    return seconds(lambda: step_of(opt).lower(params, state, params).compile())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--model", choices=["matrix", "transformer"], default="matrix")
    parser.add_argument("--rules", default=",".join(rules.rule_names()))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--skip-first-call", action="store_true")
    args = parser.parse_args()
    names = args.rules.split(",")

    params = {"matrix": matrix, "transformer": transformer}[args.model](args.parameters)
    count = size(params) // 4
    full, half = optimizers(names, jnp.float32), optimizers(names, jnp.bfloat16)
    copy = jax.jit(lambda x: x + 1.0)
    x = jnp.ones((count,))
    programs = {name: stepper(opt, params) for name, opt in full.items()}
    programs |= {f"{name} bfloat16": stepper(opt, params) for name, opt in half.items() if name != "adam"}
    programs["copy"] = lambda: jax.block_until_ready(copy(x))
    for run in programs.values():
        run()
    times = [{name: seconds(run) for name, run in programs.items()} for _ in range(args.rounds)]
    median = {name: statistics.median(t[name] for t in times) for name in programs}
    ratio = {name: statistics.median(t[name] / t["adam"] for t in times) for name in programs if name != "copy"}
    bandwidth = 8 * count / median["copy"]
    roofline = {name: 4 * FLOATS.get(name, LEARNED) * count / bandwidth / median[name] for name in full}

    ten_million = {"a": jnp.ones((2000, 2500)), "b": jnp.ones((2500, 2000))}
    temporary = {name: memory(opt, ten_million) for name, opt in full.items()}
    state = {
        name: [size(jax.eval_shape(made[name].init, ten_million)) / 1e7 for made in (full, half)] for name in names
    }
    first = {}
    if not args.skip_first_call:
        first = {name: first_call(opt, transformer(10_000_000)) for name, opt in full.items()}

    rounded = lambda values, digits: {name: round(x, digits) for name, x in values.items()}
    print(
        json.dumps(
            {
                "benchmark": "optimizer_step",
                "device": jax.devices()[0].device_kind,
                "parameters": count,
                "model": args.model,
                "tensors": len(jax.tree.leaves(params)),
                "ratio": rounded(ratio, 2),
                "milliseconds": {name: round(1e3 * median[name], 2) for name in ratio},
                "copy_gigabytes_per_second": round(bandwidth / 1e9, 1),
                "share_of_roofline": rounded(roofline, 2),
                "temporary_bytes_per_parameter": rounded(temporary, 2),
                "state_bytes_per_parameter": {name: [round(x, 2) for x in pair] for name, pair in state.items()},
                "first_call_seconds": rounded(first, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
