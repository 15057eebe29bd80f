"""Costs that were measured elsewhere: a table of latencies and energies as limits and objectives.

A table knows some architectures only. One that it lacks is within no limit and on no front.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from saboc_jax.types import Cost, SearchSpace


class CostTable(Protocol):
    """What is read of a table; `saboc_jax.read_table` gives one.

    Attributes:
        path: the file, for messages.
        architectures: [n, decisions] that it knows.
        columns: [n] of each cost; NaN where it was not measured.
    """

    @property
    def path(self) -> Path: ...
    @property
    def architectures(self) -> Int[np.ndarray, "n decisions"]: ...
    @property
    def columns(self) -> Mapping[str, Float[np.ndarray, " n"]]: ...
    def values(self, archs: Any, name: str) -> Float[np.ndarray, " m"]:
        """Returns a cost of architectures [m, decisions]; NaN where it is not known."""
        ...


def is_formula(quantity: str) -> bool:
    """Returns whether a cost is one that every space computes: a field of `Cost`."""
    return quantity in Cost._fields


def check_cost(quantity: str, table: CostTable | None) -> None:
    """Raises ValueError unless the cost is a field of `Cost` or a column of the table."""
    if not is_formula(quantity) and (table is None or quantity not in table.columns):
        named = f"a column of {table.path} ({', '.join(table.columns)})" if table else ""
        raise ValueError(
            f"cost {quantity!r}; allowed: {', '.join(Cost._fields)}"
            + (f", or {named}" if named else ", or a column of a table, which is not given")
        )


def costs_of(
    space: SearchSpace,
    quantity: str,
    archs: Sequence[Any] | Int[np.ndarray, "n decisions"],
    table: CostTable | None = None,
) -> Float[np.ndarray, " n"]:
    """Returns one cost of each architecture; NaN where the table does not know it.

    Args:
        space: the space of the architectures.
        quantity: a field of `Cost`, or a column of the table.
        archs: the architectures.
        table: of the costs that the space does not compute.
    """
    check_cost(quantity, table)
    if is_formula(quantity) or table is None:
        return np.array([getattr(space.cost(arch), quantity) for arch in archs], float)
    return table.values(archs, quantity)


def check_limit(name: str, limit: Any) -> float:
    """Returns a limit on a cost as a number; ValueError if it is none."""
    number = isinstance(limit, int | float | np.integer | np.floating)
    if not number or isinstance(limit, bool) or math.isnan(limit):
        raise ValueError(f"limit {name}={limit!r}; allowed: a number")
    return float(limit)


def measured_excess(limits: Mapping[str, float], arch: Any, table: CostTable | None) -> list[str]:
    """Returns the limits of measured costs that an architecture exceeds, in words."""
    values = {name: float(table.values([arch], name)[0]) for name in limits} if table else {}
    return [
        f"{name} {'unknown' if math.isnan(value) else f'{value:.12g}'} > {limits[name]:.12g}"
        for name, value in values.items()
        if not value <= limits[name]
    ]


def measured_check(
    space: SearchSpace,
    limits: Mapping[str, float],
    excess: Callable[[Any], list[str]],
    table: CostTable | None,
) -> Callable[[Bool[np.ndarray, "decisions options"]], bool]:
    """Returns a function that says whether a mask holds an architecture within all limits.

    It is exact, for the table lists all architectures that can be within them.

    Args:
        space: the search space.
        limits: the most of each measured cost.
        excess: `excess(arch)` gives the limits on the space's own costs that are exceeded.
        table: of the measured costs.

    Raises:
        ValueError: if a cost is no column of the table, or nothing is within the limits.
    """
    for name in limits:
        check_cost(name, table)
    assert table is not None
    fits = np.ones(len(table.architectures), bool)
    for name, limit in limits.items():
        fits &= table.columns[name] <= limit  # False of NaN
    archs = table.architectures[fits]
    archs = archs[[not excess(arch) for arch in archs]] if len(archs) else archs
    if not len(archs):
        least = ", ".join(f"{name} {np.nanmin(table.columns[name]):.6g}" for name in limits)
        raise ValueError(
            f"no architecture of {table.path} is within {dict(limits)} and the other limits; "
            f"allowed: larger limits (the least there are {least})"
        )
    decisions = np.arange(len(space.choices))
    return lambda mask: bool(np.asarray(mask, bool)[decisions, archs].all(1).any())
