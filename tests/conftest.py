"""Settings that every test shares; they must be in place before JAX starts."""

import os

# More threads than virtual devices: CPU collectives deadlock otherwise on machines with few cores.
os.environ.setdefault("NPROC", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
