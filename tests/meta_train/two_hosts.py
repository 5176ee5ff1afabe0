"""One of two processes of two devices each: 20 outer steps on toys, then theta and metrics of process 0 in a file.

python two_hosts.py PORT INDEX FOLDER
"""

import sys
from pathlib import Path

import jax
import numpy as np
from test_mesh import ACROSS, STEPS, advance, made, start, vector

from meta_train import distributed
from meta_train.checkpointing import Checkpoints
from meta_train.distributed import DistributedConfig


def main(port: str, index: str, folder: str) -> None:
    process = distributed.join(DistributedConfig("auto", f"localhost:{port}", 2, int(index)))
    assert process == distributed.Process(int(index), 2)
    for name, settings in ACROSS.items():
        experiment = made(4, **settings)
        assert experiment.mesh.size == 4 and len(jax.local_devices()) == 2
        state, step = start(experiment)
        state, _ = advance(experiment, state, step, STEPS // 2)
        with Checkpoints(Path(folder) / f"checkpoints of {name}") as checkpoints:
            checkpoints.save(STEPS // 2, state)
        state, report = advance(experiment, state, step, STEPS - STEPS // 2)
        if process.first:
            np.savez(Path(folder) / f"{name}.npz", theta=vector(state.theta), **jax.device_get(report.means))


if __name__ == "__main__":
    main(*sys.argv[1:])
