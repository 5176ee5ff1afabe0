"""Where a run happens: its devices, and its directory as the processes of all hosts share it."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from learned_opt.errors import InputError
from meta_train import config as configs
from meta_train import distributed, mesh, run_directory
from meta_train.config import MetaTrainConfig
from meta_train.outer import Experiment


def on(devices: Sequence[Any], experiment: Experiment) -> Experiment:
    """The experiment with its particles spread over `devices`.

    Raises:
      InputError: devices of several processes that do not divide the pairs.
    """
    made = mesh.make(devices, experiment.config.estimator.pairs)
    if made is None:
        return experiment
    return replace(experiment, mesh=made, problems=mesh.replicate(made, experiment.problems))


def described(devices: Sequence[Any], experiment: Experiment) -> list[str]:
    """Lines that say how the pairs are spread over `devices`; none for a single one."""
    pairs, used = experiment.config.estimator.pairs, 1 if experiment.mesh is None else experiment.mesh.size
    lines = []
    if used < len(devices):
        more = -(-pairs // len(devices)) * len(devices)
        lines.append(f"{pairs} pairs on {used} of {len(devices)} devices: --estimator.pairs {more} takes all")
    elif used > 1:
        several = "" if jax.process_count() == 1 else f" of {jax.process_count()} processes"
        lines.append(f"{pairs} pairs on {used} devices{several}, {pairs // used} on each")
    return lines


@contextmanager
def claimed(out: Path, config: MetaTrainConfig) -> Iterator[None]:
    """Hold `out` for this process and those that belong to it, which have the same configuration and versions.

    Raises:
      InputError: in all of them, if it is not usable or not seen by all, or if they differ.
    """
    if jax.process_count() == 1:
        with run_directory.claim(out, config):
            yield
        return
    distributed.require_same(facts(config))
    with distributed.together(lambda: run_directory.claim(out, config)):
        # A name that nobody has looked up before: an --out of the same name may be there, and caches of NFS as well.
        probe = Path(distributed.gather(str(out / f".shared-{secrets.token_hex(8)}"))[0])
        try:
            if jax.process_index() == 0:
                probe.touch()
            distributed.gather("written")
            seen = [each == "yes" for each in distributed.gather("yes" if (out / probe.name).exists() else "no")]
        finally:
            if jax.process_index() == 0:
                probe.unlink(missing_ok=True)
        if not all(seen):
            raise InputError(
                f"--out {probe.parent} of process 0 is not seen by process {seen.index(False)}: expected a directory "
                "in a file system that all hosts share"
            )
        yield


def facts(config: MetaTrainConfig) -> dict[str, Any]:
    """What must be the same in all processes, so that they run the same program."""
    settings = ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable", "jax_default_matmul_precision")
    return {
        **dict(configs.flatten(config)),
        **{f"version of {name}": version for name, version in run_directory.versions().items()},
        "source code": run_directory.source_digest(),
        **{name: getattr(jax.config, name) for name in settings},
    }
