"""What `--dry-run` plans for: devices that are not here. Importing this module loads no JAX."""

import math
from dataclasses import dataclass
from typing import Literal

from learned_opt.errors import InputError


@dataclass(frozen=True)
class PlanConfig:
    """Devices to plan for with --dry-run, and the network between them."""

    plan_devices: int | None = None
    """Devices in all."""
    plan_platform: Literal["cpu", "cuda", "tpu"] = "tpu"
    """What the outer step is lowered for."""
    plan_memory: float = 16.0
    """Memory of a device, in GB."""
    plan_speedup: float = 1.0
    """How many times as fast as this machine a device runs the same particles; the measured rate is this machine's."""
    plan_bandwidth: float = 10.0
    """What a device sends to the next one in an all-reduce, in GB/s."""
    plan_latency: float = 5.0
    """Of one hop between devices, in microseconds."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
          InputError: naming the option, its value and what was expected.
        """
        if self.plan_devices is not None and not 1 <= self.plan_devices <= 2**20:
            raise InputError(f"--plan-devices {self.plan_devices}: expected from 1 to {2**20}")
        for name in ("plan_memory", "plan_speedup", "plan_bandwidth"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} {value}: expected a finite number above 0")
        if not 0 <= self.plan_latency < math.inf:
            raise InputError(f"--plan-latency {self.plan_latency}: expected a finite number of at least 0")
