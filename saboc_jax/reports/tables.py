"""Tables of results for a terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text


def results_table(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    title: str | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
) -> Table:
    """Lays out rows for a terminal: numbers to four digits, aligned right, best cells bold.

    Args:
        rows: cells by column; a column that a row lacks stays empty.
        columns: columns in order; by default all, as they first occur.
        title: a line above the table.
        higher_is_better: direction of each column in which the best cells are bold.

    Raises:
        ValueError: names a column of `higher_is_better` that the table does not have.
    """
    rows = list(rows)
    if columns is None:
        columns = list(dict.fromkeys(name for row in rows for name in row))
    directions = higher_is_better or {}
    unknown = set(directions) - set(columns)
    if unknown:
        raise ValueError(f"no columns {sorted(unknown)} in the table; it has {list(columns)}")
    table = Table(title=None if title is None else Text(title), title_justify="left")
    for name in columns:
        numeric = any(_is_number(row.get(name)) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    best = {name: _best([row.get(name) for row in rows], up) for name, up in directions.items()}
    for row in rows:
        table.add_row(*[_cell(row.get(name), best.get(name)) for name in columns])
    return table


def mean_and_spread(values: Iterable[float]) -> str:
    """Returns repeats as text, e.g. `0.532 ± 0.012 (5)`: mean, standard deviation, count.

    The deviation is the sample's (n - 1), omitted for a single value. Values that are not finite
    are counted, not averaged: `0.532 ± 0.012 (4 of 5 finite)`.
    """
    array = np.asarray(list(values), dtype=np.float64)
    finite = array[np.isfinite(array)]
    count = f"{len(finite)} of {len(array)} finite" if len(finite) < len(array) else f"{len(array)}"
    if not len(finite):
        return f"nan ({count})"
    spread = f" ± {finite.std(ddof=1):.2g}" if len(finite) > 1 else ""
    return f"{finite.mean():.4g}{spread} ({count})"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _best(values: Iterable[Any], higher: bool) -> float | None:
    """Returns the best finite number, None if there is none."""
    finite = [float(value) for value in values if _is_number(value) and math.isfinite(value)]
    if not finite:
        return None
    return max(finite) if higher else min(finite)


def _cell(value: Any, best: float | None) -> Text:
    """Returns one cell; numbers that are not finite are marked red."""
    if value is None:
        return Text("")
    if not _is_number(value):
        return Text(str(value))
    text = str(value) if isinstance(value, (int, np.integer)) else f"{float(value):.4g}"
    if not math.isfinite(value):
        return Text(text, style="red")
    return Text(text, style="bold green" if best is not None and value == best else "")
