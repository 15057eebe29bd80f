"""Evaluations per second of every search method with a free score: the method's own cost.

The score is the number of parameters, from a table. Each search runs twice with the same
programs; the first compiles, the second is timed: `ask` and `tell` until their arrays are
ready, and the whole loop.

Examples:
  saboc searcher_overhead --out=runs/overhead.json
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.files import write_json
from saboc_jax.keys import key_numbered, root_key
from saboc_jax.progress import track
from saboc_jax.reports.tables import results_table
from saboc_jax.scorers.costs import additive_table
from saboc_jax.searchers import SEARCHERS
from saboc_jax.spaces import make_space
from saboc_jax.types import Searcher

from .support import common, workdir

POPULATION = flags.DEFINE_integer("population", 256, "Population of the evolutions.", 4)
EVALUATIONS = flags.DEFINE_integer("evaluations", 1256, "Evaluations of each search.", 1)
BATCH = flags.DEFINE_integer("batch", 1, "Children, or draws of REINFORCE, per step.", 1)
OUT = flags.DEFINE_string("out", None, "JSON file to write.")


def build(choices: tuple[int, ...]) -> dict[str, Searcher]:
    """Every search method; pruning and exhaustive search choose their own length."""
    options: dict[str, dict[str, Any]] = {
        name: {"max_evaluations": EVALUATIONS.value} for name in SEARCHERS if name != "pruning"
    }
    for name in ("evolution", "aging_evolution", "reinforce"):
        options[name]["batch"] = BATCH.value
    for name in ("evolution", "aging_evolution"):
        options[name]["population_size"] = POPULATION.value
    options["aging_evolution"]["tournament"] = max(1, POPULATION.value // 4)
    return {name: SEARCHERS[name](choices, (True,), **options.get(name, {})) for name in SEARCHERS}


def timed(searcher: Searcher, table: tuple[float, np.ndarray]) -> tuple[int, float, float]:
    """(evaluations, seconds in ask and tell, seconds in all) of one search."""
    base, increments = table
    key = root_key(common.SEED.value)
    start, method_seconds, count = time.perf_counter(), 0.0, 0
    state = searcher.init(key)
    while not searcher.done(state):
        began = time.perf_counter()
        masks, state = searcher.ask(key_numbered(key, count), state)
        jax.block_until_ready(masks)
        method_seconds += time.perf_counter() - began
        active = np.asarray(masks, float)
        gates = active / active.sum(-1, keepdims=True)
        scores = base + (gates * increments).sum((1, 2))[:, None, None]
        began = time.perf_counter()
        state = jax.block_until_ready(searcher.tell(state, masks, scores))
        method_seconds += time.perf_counter() - began
        count += len(masks)
    return count, method_seconds, time.perf_counter() - start


def main() -> None:
    """Measures, prints, writes."""
    space = make_space(common.SPACE.value, channels=16, num_cells=5)
    table = additive_table(space, "params")
    if table is None:
        raise ValueError(f"parameters of {space.name} are no sum over decisions")
    rows = []
    searchers = build(space.choices)
    console = Console(highlight=False, markup=False)
    for name, searcher in track(searchers.items(), "measuring", console, calm=True):
        compiling = timed(searcher, table)[2]
        count, method_seconds, whole = timed(searcher, table)
        rows.append(
            {
                "searcher": name,
                "evaluations": count,
                "ms per evaluation": 1000 * method_seconds / count,
                "evaluations per s": count / whole,
                "first run s": compiling,
            }
        )
    title = f"population {POPULATION.value}, {BATCH.value} per step, score: parameters"
    console.print(results_table(rows, title=title))
    if OUT.value:
        write_json(Path(OUT.value), {**workdir.run_record("out"), "rows": rows})


if __name__ == "__main__":
    common.set_defaults(compilation_cache=False)  # it measures compilation, or beside it
    common.run(
        main,
        unread=(
            *common.SCORING,
            *common.RAY,
            "batch_size",
            "cells",
            "channels",
            "data_dir",
            "dataset",
            "init",
            "precision",
            "redraw_zeros",
            "repeats",
            "resize",
            "trained_size",
        ),
    )
