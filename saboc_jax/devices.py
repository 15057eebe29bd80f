"""Finds and sets up the local devices that JAX runs on."""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

SHARDS = ("architectures", "images")
"""What is divided over devices: architectures (here) or images (`saboc_jax.ntk.sharded`)."""


QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a Linux container's quota: microseconds per period


def cores() -> int:
    """Returns the number of processors that affinity and container quota allow this process."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with suppress(OSError, ValueError):
        quota, period = map(int, QUOTA.read_text().split())  # "max" means no quota
        found = min(found or 1, math.ceil(quota / period))
    return max(found or 1, 1)


def open_cores(number: int) -> None:
    """Splits the CPU into this many JAX devices, before JAX starts.

    Networks for scoring are too small to fill several cores: two devices of one core each score
    up to twice as many architectures as one device of two cores. Has no effect if JAX already
    runs, if XLA_FLAGS or JAX_NUM_CPU_DEVICES sets the number of devices, or before jax 0.5.
    """
    chosen = getattr(jax.config, "jax_num_cpu_devices", -1) != -1
    if chosen or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with suppress(RuntimeError, AttributeError):
        jax.config.update("jax_num_cpu_devices", number)


def find_devices(number: int | None = None) -> tuple[jax.Device, ...]:
    """Returns the first local devices of the default backend.

    Args:
        number: how many; None: all.

    Raises:
        ValueError: if there are fewer.
    """
    found = jax.local_devices()
    if number is not None and not 1 <= number <= len(found):
        raise ValueError(f"{number} devices; allowed: 1 to {len(found)}, or all")
    return tuple(found[:number])


def check_divides(devices: int, images: int) -> None:
    """Raises ValueError unless so many devices can share so many images evenly."""
    if images % devices:
        raise ValueError(
            f"a batch of {images} images on {devices} devices; allowed where they share the "
            f"images: multiples of {devices}, or fewer devices"
        )


def platform_of(device: jax.Device) -> str:
    """Returns the platform and kind of a device, e.g. "gpu: NVIDIA H100"."""
    return f"{device.platform}: {device.device_kind}"


def unchecked_shard_map(function: Callable[..., Any], mesh: Mesh, inputs: Any, outputs: Any) -> Any:
    """Calls `jax.shard_map` without its check of values that are equal on all devices."""
    if hasattr(jax, "shard_map"):
        return jax.shard_map(
            function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False
        )
    from jax.experimental.shard_map import shard_map  # before jax 0.7

    return shard_map(function, mesh, inputs, outputs, check_rep=False)
