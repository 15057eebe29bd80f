"""The numbers that a benchmark gives its architectures, read from its table."""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int

from saboc_jax.benchmarks import tables
from saboc_jax.benchmarks.csv_files import data_directory
from saboc_jax.types import Architecture, SearchSpace

SPACES = ("nas_bench_201",)
"""Spaces whose benchmark numbers its architectures, in an order that only its table has."""


def has_indices(space: SearchSpace) -> bool:
    """Returns whether the architectures of a space have numbers."""
    return space.name in SPACES


def architecture_of(
    index: str, space: SearchSpace, data_dir: str | os.PathLike[str] | None = None
) -> Architecture:
    """Returns the architecture with a number in the benchmark.

    Raises:
        ValueError: if the space has no numbers, there is no such number, or no table.
    """
    if not has_indices(space):
        raise ValueError(
            f"notation='index' of space {space.name!r}; allowed: of {', '.join(SPACES)}"
        )
    try:
        found = _by_index(data_directory(data_dir))
    except FileNotFoundError as error:
        raise ValueError(f"index {index} needs the benchmark's table: {error}") from error
    if not index.isdecimal() or int(index) >= len(found):
        raise ValueError(
            f"index {index} of space {space.name!r}; allowed: 0 to {len(found) - 1}, e.g. 1462"
        )
    return found[int(index)]


@lru_cache(maxsize=2)
def _by_index(folder: Path) -> Int[np.ndarray, "15625 6"]:
    table = tables.load_nas_bench_201(folder)
    return table.architectures[np.argsort(table.indices)]
