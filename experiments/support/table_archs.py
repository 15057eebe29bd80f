"""Which architectures of a table are scored."""

import jax
import numpy as np
from rich.console import Console

from saboc_jax.benchmarks.accuracies import AccuracyTable
from saboc_jax.keys import root_key
from saboc_jax.types import SearchSpace

from . import scoring, tables


def with_accuracies(
    space: SearchSpace, known: tables.Truth, console: Console
) -> tuple[np.ndarray, np.ndarray]:
    """The architectures of the flags that have an accuracy, and their accuracies.

    Raises:
        ValueError: if fewer than `--num_archs`, or none, have one.
    """
    archs = (
        of_table(known.table) if known.table and known.restricts else scoring.architectures(space)
    )
    truth = known.of(archs)
    has = ~np.isnan(truth)
    if not has.any():
        raise ValueError(f"none of the {len(archs)} architectures has a {known.label}")
    if not has.all():
        console.print(f"{int((~has).sum())} architectures without a {known.label} do not count")
    return archs[has], truth[has]


def of_table(table: AccuracyTable) -> np.ndarray:
    """The architectures of a table that the flags choose: drawn of those with an accuracy.

    Raises:
        ValueError: if more are asked for than the table has.
    """
    if scoring.ARCHS.value not in (None, "all"):
        return scoring.architectures(table.space)
    usable = np.arange(len(table))
    if table.main is not None:
        usable = np.flatnonzero(~np.isnan(table.column()))
    if scoring.ARCHS.value == "all":
        return table.architectures[usable]
    if scoring.NUM_ARCHS.value > len(usable):
        if scoring.NUM_ARCHS.present:
            raise ValueError(
                f"--num_archs={scoring.NUM_ARCHS.value}; {table.path} has {len(usable)} with an "
                "accuracy"
            )
        return table.architectures[usable]
    drawn = jax.random.permutation(root_key(scoring.ARCH_SEED.value), len(usable))
    return table.architectures[usable[np.asarray(drawn)[: scoring.NUM_ARCHS.value]]]
