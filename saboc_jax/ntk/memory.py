"""Plans the memory of kernels before they run: fewer examples at once if a pass needs too much."""

import os
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from saboc_jax.layers.programs import signature_of
from saboc_jax.ntk.batches import number_of
from saboc_jax.ntk.options import NTKOptions

SHARE = 0.6  # of the device's memory that a program may take


def memory_limit(device: Any = None) -> int:
    """Returns how many bytes a program may take: `SHARE` of the memory of a device (CPU: of RAM).

    The environment variable SABOC_MEMORY_GIB sets it by hand.
    """
    if given := os.environ.get("SABOC_MEMORY_GIB"):
        return int(float(given) * 2**30)
    device = jax.local_devices()[0] if device is None else device
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(SHARE * stats["bytes_limit"])
    return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def needed_bytes(compiled: Any) -> int:
    """Returns how much a compiled program takes beside its arguments; 0 if it is not known."""
    analysis = compiled.memory_analysis()
    return int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes) if analysis else 0


def check_fits(compiled: Any, device: Any) -> None:
    """Raises MemoryError if a compiled program needs more than a device's `memory_limit`."""
    needed, limit = needed_bytes(compiled), memory_limit(device)
    if needed > limit:
        raise MemoryError(f"a program needs {needed} bytes of {device}; allowed: {limit}")


def chunk_that_fits(
    make: Callable[[NTKOptions], Callable[..., list[Array]]], options: NTKOptions
) -> Callable[..., list[Array]]:
    """Returns a compiled function of (variables, columns, rows) that fits in memory.

    It is compiled once for all shapes; as long as a program needs more than `memory_limit`, it is
    compiled again with half as many examples in a pass.

    Args:
        make: gives the function for options.
        options: `chunk` is where to begin; None: all examples.
    """
    programs: dict[Any, Any] = {}

    def run(variables: Any, columns: Any, rows: Any) -> list[Array]:
        signature = signature_of((variables, columns, rows))
        if signature not in programs:
            programs[signature] = _compile(make, options, variables, columns, rows)
        done: list[Array] = programs[signature](variables, columns, rows)
        return done

    return run


def _compile(make: Any, options: NTKOptions, variables: Any, columns: Any, rows: Any) -> Any:
    limit = memory_limit()
    while True:
        compiled = jax.jit(make(options)).lower(variables, columns, rows).compile()
        chunk = options.chunk or max(number_of(batch) for batch in (columns, *rows))
        if needed_bytes(compiled) <= limit or not options.takes_chunks or chunk == 1:
            return compiled
        options = options._replace(chunk=chunk // 2)
