"""Contestants take turns on the same cases; medians and ratios of their seconds."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from saboc_jax import progress

from .contestants import Case, Contestant, Prepared

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class Times(NamedTuple):
    """The times of one contestant.

    Attributes:
        compile_seconds: one value for every program.
        wall: [rounds, cells] wall seconds.
        cpu: [rounds, cells] CPU seconds of all threads of this process; other programs disturb
            them less.
    """

    compile_seconds: list[float]
    wall: np.ndarray
    cpu: np.ndarray


def timed(run: Callable[[], Any]) -> list[float]:
    """Returns the seconds of one run by each clock."""
    start = [clock() for clock in CLOCKS.values()]
    run()
    return [clock() - began for clock, began in zip(CLOCKS.values(), start, strict=True)]


def measure(
    cases: Sequence[Case],
    contestants: Mapping[str, Contestant],
    rounds: int,
    few_cells: int,
    first: dict[str, Prepared] | None = None,
) -> dict[str, Times]:
    """Runs all contestants case after case; they take turns within the rounds of a case.

    Args:
        cases: the cases, the same for all contestants.
        contestants: by name; contestants with `few` run on the first `few_cells` cases only.
        rounds: rounds per case; a different contestant begins each round.
        few_cells: number of cases for contestants with `few`.
        first: if given, filled with the prepared contestants of the first case.
    """
    names = list(contestants)
    compile_seconds: dict[str, list[float]] = {name: [] for name in names}
    seconds: dict[str, list[list[list[float]]]] = {name: [] for name in names}  # [cells][rounds]
    takes_part = [
        [n for n in names if number < few_cells or not contestants[n].few]
        for number in range(len(cases))
    ]
    steps = (rounds + 1) * sum(map(len, takes_part))  # every contestant prepares, then runs
    with progress.bar("measuring", steps, calm=True) as bar:
        for number, (case, here) in enumerate(zip(cases, takes_part, strict=True)):
            prepared = {}
            for name in here:
                bar.describe(f"cell {number + 1} of {len(cases)}: {name}")
                prepared[name] = contestants[name].prepare(case)
                took = prepared[name].compile_seconds
                compile_seconds[name] += [] if took is None else [took]
                seconds[name].append([])
                bar.advance()
            if first is not None and not number:
                first.update(prepared)
            for turn in range(rounds):
                for place in range(len(here)):
                    name = here[(place + turn) % len(here)]
                    seconds[name][-1].append(timed(prepared[name].run))
                    bar.advance()
    tables = {name: np.asarray(values).transpose(2, 1, 0) for name, values in seconds.items()}
    return {name: Times(compile_seconds[name], *tables[name]) for name in names}


def summarise(times: Mapping[str, Times], base: str) -> dict[str, dict[str, Any]]:
    """Medians, and ratios to `base` on the same cells.

    Returns:
        For each contestant: "run s" (median over rounds, then mean over cells), its smallest and
        largest round, and for each clock the ratio of such means over the cells that both ran,
        with the quartiles of the ratios of single runs in the same round on the same cell.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, entry in times.items():
        cells = entry.wall.shape[1]
        means = entry.wall.mean(1)
        row: dict[str, Any] = {"cells": cells, **_compile_row(entry.compile_seconds)}
        row |= {
            "run s": float(np.median(entry.wall, 0).mean()),
            "min s": float(means.min()),
            "max s": float(means.max()),
            "cpu s": float(np.median(entry.cpu, 0).mean()),
        }
        for clock in CLOCKS:
            row |= _ratio(clock, getattr(entry, clock), getattr(times[base], clock)[:, :cells])
        summary[name] = row
    return summary


def _compile_row(seconds: list[float]) -> dict[str, Any]:
    if not seconds:
        return {"programs": 0}
    return {
        "programs": len(seconds),
        "compile s": float(np.median(seconds)),
        "compile max s": float(np.max(seconds)),
    }


def _ratio(clock: str, ours: np.ndarray, base: np.ndarray) -> dict[str, float]:
    cells = min(ours.shape[1], base.shape[1])
    ours, base = ours[:, :cells], base[:, :cells]
    low, high = np.quantile(ours / base, [0.25, 0.75])
    return {
        f"{clock} ratio": float(np.median(ours, 0).mean() / np.median(base, 0).mean()),
        f"{clock} ratio q1": float(low),
        f"{clock} ratio q3": float(high),
    }
