"""What the outer step exchanges and does on 1 to 64 devices, counted from the compiled program, not timed.

    python benchmarks/scaling.py [--preset quickstart] [--most 64] [--bandwidth 10] [--latency 5]

Weak scaling on virtual CPU devices: one pair of the preset on each. Collectives, their bytes, operations and memory of
one device come from the program that XLA makes for so many devices. Beside them, the prediction of
`learned-opt meta-train PRESET --dry-run --plan-devices D`: one device's time is measured once, the all-reduce follows
from bytes, bandwidth (GB/s) and latency (us). The last line is JSON:

    rows    one for each number of devices: collectives, bytes, flops_per_device, particle_bytes_per_device, efficiency
    ratio   largest over smallest flops_per_device (target: 1.05)
"""

import argparse
import dataclasses
import json
import os


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--bandwidth", type=float, default=10.0)
    parser.add_argument("--latency", type=float, default=5.0)
    args = parser.parse_args()
    # Before JAX starts.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.most}"
    os.environ |= {"JAX_PLATFORMS": "cpu", "NPROC": str(args.most)}
    import jax

    from meta_train import mesh, outer
    from meta_train.collectives import collectives
    from meta_train.dry_run import seconds_per_step
    from meta_train.plan_config import PlanConfig
    from meta_train.planner import all_reduce_seconds
    from meta_train.presets import PRESETS
    from meta_train.trainer import compile_step

    network = PlanConfig(plan_devices=args.most, plan_bandwidth=args.bandwidth, plan_latency=args.latency)
    rows, alone = [], None
    devices = 1
    while devices <= args.most:
        config = PRESETS[args.preset].config
        config = dataclasses.replace(config, estimator=dataclasses.replace(config.estimator, pairs=devices))
        experiment = outer.build(config)
        made = mesh.make(jax.devices()[:devices], devices)
        if made is not None:
            experiment = dataclasses.replace(experiment, mesh=made, problems=mesh.replicate(made, experiment.problems))
        state = experiment.init()
        state = state if made is not None else jax.device_put(state, jax.devices()[0])
        particles = sum(x.nbytes for x in jax.tree.leaves(state.estimators)) // devices
        compiled = compile_step(experiment, state)
        found = collectives(compiled.as_text())  # type: ignore[attr-defined]
        if alone is None:
            alone = seconds_per_step(experiment, state, compiled)
        cost = compiled.cost_analysis()  # type: ignore[attr-defined]
        message = sum(each.bytes for each in found)
        row = {
            "devices": devices,
            "collectives": len(found),
            "in_loops": sum(each.in_loop for each in found),
            "bytes": message,
            "flops_per_device": round(cost["flops"]),
            "particle_bytes_per_device": particles,
            "efficiency": round(alone / (alone + all_reduce_seconds(message, devices, network)), 4),
        }
        print(row, flush=True)
        rows.append(row)
        devices *= 2
    flops = [row["flops_per_device"] for row in rows]
    print(
        json.dumps(
            {
                "benchmark": "scaling",
                "preset": args.preset,
                "milliseconds_alone": round(1e3 * (alone or 0.0), 2),
                "ratio": round(max(flops) / min(flops), 4),
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
