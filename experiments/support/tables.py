"""Tables of `--table`, and texts of `--notation`: what other tools wrote of architectures."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float
from rich.console import Console

from saboc_jax.benchmarks import accuracies, known_tables
from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.benchmarks.accuracies import AccuracyTable
from saboc_jax.types import SearchSpace

from . import common, texts

TABLE = flags.DEFINE_string(
    "table",
    None,
    "CSV file of architectures (a column `arch`) with accuracies, costs and scores; default: the "
    "space's own table, where it is found.",
)
COLUMN = flags.DEFINE_string(
    "column", None, "Which column of the table is the accuracy; default: its main one."
)
UNIT = flags.DEFINE_enum(
    "unit", None, accuracies.UNITS, "Of the table's accuracies; default: as their values say."
)


class Truth(NamedTuple):
    """True accuracies of architectures.

    Attributes:
        of: `of(archs)` gives per cents; NaN where the table lacks an architecture.
        all: those of all architectures of the table that have one.
        label: what they are, in words.
        table: the table of `--table`; its other columns are costs and scores. None: there is none.
    """

    of: Callable[[np.ndarray], Float[np.ndarray, " n"]]
    all: Float[np.ndarray, " n"]
    label: str
    table: AccuracyTable | None = None

    @property
    def restricts(self) -> bool:
        """Whether only the architectures of the table have an accuracy."""
        return self.table is not None and self.table.main is not None


def given(space: SearchSpace, console: Console | None = None) -> AccuracyTable | None:
    """The table of `--table`, or the space's own where it is found; None: there is none.

    Args:
        space: the space of its architectures.
        console: to say on what was made of the file.

    Raises:
        ValueError: if the table is not one of the space, or lacks the column of `--column`.
    """
    path = _path(space)
    if path is None:
        return None
    table = _read(path, space, COLUMN.value, UNIT.value, texts.NOTATION.value)
    if COLUMN.value is not None:
        table.column(COLUMN.value)
    if console:
        for note in table.notes:
            console.print(f"{table.path}: {note}", soft_wrap=True)
    return table


@functools.lru_cache(maxsize=4)
def _read(
    path: Path, space: SearchSpace, column: str | None, unit: str | None, notation: str | None
) -> AccuracyTable:
    return accuracies.read_table(path, space, column=column, unit=unit, notation=notation)


def _path(space: SearchSpace) -> Path | None:
    """The table of `--table`, else the space's own; None: neither.

    Raises:
        ValueError: if another flag asks for something of a table.
    """
    if TABLE.value is not None:
        return Path(TABLE.value)
    known = known_tables.table_of_space(space.name)
    with contextlib.suppress(FileNotFoundError):
        if known is not None:
            return known_tables.find(known, common.DATA_DIR.value)
    for flag in (COLUMN, UNIT):
        if flag.value is not None:
            raise ValueError(
                f"--{flag.name}={flag.value} without a table of {space.name}; allowed: with --table"
            )
    return None


def truth(
    space: SearchSpace, trained_on: str, target: str = "test", console: Console | None = None
) -> Truth | None:
    """The accuracies that a run is compared with; None: none are known.

    Args:
        space: the space.
        trained_on: the data set of the accuracies, where NAS-Bench-201's own table is read.
        target: which of its accuracies.
        console: see `given`.
    """
    table = given(space, console)
    if table is not None and (table.main is not None or COLUMN.value):
        column = table.column()
        label = f"{COLUMN.value or table.main} of {table.path.name}"
        return Truth(table.values, column[~np.isnan(column)], label, table)
    if space.name != "nas_bench_201":
        return None
    try:
        known = benchmarks.load_nas_bench_201(common.DATA_DIR.value)
    except FileNotFoundError:
        return None
    trained_on = trained_on if trained_on in benchmarks.DATASETS else "cifar10"
    return Truth(
        lambda archs: np.asarray(known.accuracy(trained_on, archs, target)),
        known.column(trained_on, target),
        f"{trained_on} {target} accuracy",
        table,
    )
