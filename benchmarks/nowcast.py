"""Cost of one jump of a transformer, in its training steps, and temporary memory.

    python benchmarks/nowcast.py [--parameters 10000000] [--batch 8] [--length 128] [--rounds 3] [--period 1000]
                                 [--networks line_fit,lawa,wnn,nino]

The model is a decoder-only transformer of 8 blocks and a table of 4,096 tokens; a training step is its loss, gradient
and an update of `optax.adam`. The last line is JSON:

    ratio             network -> time of a jump / time of a training step (targets on a CPU: wnn 20, nino 60)
    processor_ratio   the same of processor time, which other programs disturb less; of no meaning on an accelerator
    overhead          the same per step, at a jump every `period` steps: share of the training time
    recording         time that the wrapper adds to a step without a jump / time of a step
    milliseconds      of a training step, and of each jump
    temporary_bytes_per_parameter   of the compiled jump (target: 64)
    history_bytes_per_parameter     what the wrapper stores beside the inner state
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

from learned_opt import nowcast

NETWORKS = {"line_fit": nowcast.LineFit, "lawa": nowcast.LAWA, "wnn": nowcast.WNN, "nino": nowcast.NiNo}
BLOCKS, HEADS, TOKENS = 8, 8, 4096


def transformer(parameters: int, length: int) -> dict[str, Any]:
    """Parameters of about the number asked, by names that the wiring knows."""
    width = max(64 * round(((parameters / (12 * BLOCKS)) ** 0.5 - TOKENS / (24 * BLOCKS)) / 64), 64)
    keys = iter(jax.random.split(jax.random.key(0), 6 * BLOCKS + 2))
    normal = lambda *shape: 0.02 * jax.random.normal(next(keys), shape)
    dense = lambda inputs, outputs: {"kernel": normal(inputs, outputs), "bias": jnp.zeros(outputs)}
    norm = lambda: {"scale": jnp.ones(width), "bias": jnp.zeros(width)}
    params: dict[str, Any] = {"wte": {"embedding": normal(TOKENS, width)}, "wpe": {"embedding": normal(length, width)}}
    for n in range(BLOCKS):
        attention = {name: dense(width, width) for name in ("query", "key", "value", "out")}
        perceptron = {"c_fc": dense(width, 4 * width), "c_proj": dense(4 * width, width)}
        params[f"block_{n}"] = {"ln_1": norm(), "attn": attention, "ln_2": norm(), "mlp": perceptron}
    return params | {"ln_f": norm()}


def loss(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
    """Cross entropy of the next token; the table of tokens makes the logits."""
    linear = lambda layer, x: x @ layer["kernel"] + layer["bias"]
    norm = lambda layer, x: jax.nn.standardize(x) * layer["scale"] + layer["bias"]
    x = params["wte"]["embedding"][tokens[:, :-1]]
    x = x + params["wpe"]["embedding"][: x.shape[1]]
    for n in range(BLOCKS):
        block = params[f"block_{n}"]
        y, attention = norm(block["ln_1"], x), block["attn"]
        split = lambda y: y.reshape(*y.shape[:2], HEADS, -1)
        q, k, v = (split(linear(attention[name], y)) for name in ("query", "key", "value"))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(attention["out"], y.reshape(x.shape))
        y = jax.nn.gelu(linear(block["mlp"]["c_fc"], norm(block["ln_2"], x)))
        x = x + linear(block["mlp"]["c_proj"], y)
    logits = norm(params["ln_f"], x) @ params["wte"]["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def step_of(opt: Any) -> Any:
    """The jitted training step `(params, state, tokens) -> (params, state)`."""

    def step(params: Any, state: Any, tokens: jax.Array) -> Any:
        updates, state = opt.update(jax.grad(loss)(params, tokens), state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def stepper(opt: Any, params: Any, tokens: jax.Array) -> Callable[[], Any]:
    """Runs one step and waits for it."""
    params = jax.tree.map(jnp.array, params)
    step, state = step_of(opt), opt.init(params)

    def run() -> None:
        nonlocal params, state
        params, state = jax.block_until_ready(step(params, state, tokens))

    return run


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor time of one call."""
    start = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--period", type=int, default=1000)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    args = parser.parse_args()

    params = transformer(args.parameters, args.length)
    count = sum(x.size for x in jax.tree.leaves(params))
    tokens = jax.random.randint(jax.random.key(1), (args.batch, args.length + 1), 0, TOKENS)
    wiring = nowcast.transformer(params, heads=HEADS)
    noise = lambda x, t: x + 0.001 * t * jax.random.normal(jax.random.key(t), x.shape)
    history = tuple(jax.tree.map(lambda x, t=t: noise(x, t), params) for t in range(5))

    # A period that the benchmark does not reach: only the recording is timed.
    wrapped = nowcast.nowcast(optax.adam(1e-4), nowcast.LineFit(), horizons=2, period=10_000)
    programs: dict[str, Callable[[], Any]] = {
        "step": stepper(optax.adam(1e-4), params, tokens),
        "wrapped": stepper(wrapped, params, tokens),
    }
    temporary = {}
    for name in args.networks.split(","):
        network = NETWORKS[name]()
        theta, k = jax.jit(network.init)(jax.random.key(2)), jnp.int32(2)
        predict = jax.jit(lambda theta, history, k, network=network: network.predict(theta, history, k, wiring))
        compiled = predict.lower(theta, history, k).compile()
        temporary[name] = getattr(compiled.memory_analysis(), "temp_size_in_bytes", float("nan")) / count
        programs[name] = lambda compiled=compiled, theta=theta, k=k: compiled(theta, history, k)
    for run in programs.values():
        run()
    times = [{name: seconds(run) for name, run in programs.items()} for _ in range(args.rounds)]
    median = {name: statistics.median(t[name][0] for t in times) for name in programs}
    ratios = lambda clock: {
        name: statistics.median(t[name][clock] / t["step"][clock] for t in times) for name in programs if name != "step"
    }
    ratio, processor = ratios(0), ratios(1)
    recording = ratio.pop("wrapped") - 1.0
    del processor["wrapped"]

    rounded = lambda values, digits: {name: round(x, digits) for name, x in values.items()}
    print(
        json.dumps(
            {
                "benchmark": "nowcast",
                "device": jax.devices()[0].device_kind,
                "parameters": count,
                "tokens_per_step": args.batch * args.length,
                "ratio": rounded(ratio, 2),
                "processor_ratio": rounded(processor, 2),
                "overhead": rounded({name: x / args.period for name, x in ratio.items()}, 5),
                "recording": round(recording, 3),
                "milliseconds": rounded({name: 1e3 * x for name, x in median.items()}, 1),
                "temporary_bytes_per_parameter": rounded(temporary, 1),
                "history_bytes_per_parameter": 5 * 4,
            }
        )
    )


if __name__ == "__main__":
    main()
