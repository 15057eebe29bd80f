"""Measures convolutions and their gradients as XLA's CPU computes them and as `fast_programs` does.

    python experiments/results/convolutions/measure.py

32 images, one thread pool of the machine, the fastest of three runs after one that warms up.
"""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax import lax

from saboc_jax.layers.fast_programs import with_fast_convolutions

IMAGES = 32
DENSE = ((1, 512, 3), (2, 512, 3), (3, 512, 3), (4, 512, 3), (2, 256, 3), (2, 64, 3))
DEPTHWISE = ((2, 512, 3), (4, 512, 3), (8, 256, 3), (16, 128, 3), (2, 512, 5))


def seconds(function: Callable[..., Any], *args: Any) -> float:
    """The fastest of three runs of the compiled function."""
    compiled = jax.jit(function).lower(*args).compile()
    jax.block_until_ready(compiled(*args))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(time.perf_counter() - start)
    return min(times)


def measured(size: int, channels: int, window: int, groups: int) -> dict[str, Any]:
    """A row: milliseconds of the outputs and of both gradients, each in two ways."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (IMAGES, size, size, channels))
    kernel = jax.random.normal(keys[1], (window, window, channels // groups, channels))

    def run(x: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(
            *(x, kernel, (1, 1), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    loss = lambda x, kernel: (run(x, kernel) ** 2).sum()  # noqa: E731
    row: dict[str, Any] = {"size": size, "channels": channels, "window": window, "groups": groups}
    ways = {"outputs": run, "by_input": jax.grad(loss), "by_kernel": jax.grad(loss, 1)}
    for name, way in ways.items():
        row[f"{name}_xla_ms"] = round(1e3 * seconds(way, x, kernel), 2)
        row[f"{name}_fast_ms"] = round(1e3 * seconds(with_fast_convolutions(way), x, kernel), 2)
    return row


def main() -> None:
    """Measures all, prints and keeps them."""
    cases = [(*case, 1) for case in DENSE] + [(*case, case[1]) for case in DEPTHWISE]
    rows = [measured(*case) for case in cases]
    with (Path(__file__).parent / "convolutions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*row.values())


if __name__ == "__main__":
    main()
