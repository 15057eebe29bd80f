"""Measures NTK engines against each other, training steps and PyTorch, in one run.

Contestants take turns on the same random cells, weights and images, with the same number of
threads; compile time and run time are apart. Ratios are to the first contestant, on the same cells,
by the clock on the wall and by CPU time, which other programs disturb less. Those that are slow, or
that compile for every cell, are measured on the first `--few_cells`. Where PyTorch is installed
(extra `peers`) its training step and the n backward passes of the NTK papers' codes take part.

The roofline row says how many floating-point operations per second the NTK achieves, counted from
formulas, beside a float32 matrix product; the memory rows say what compiled programs need.

Examples:
  saboc benchmark --channels=16 --num_archs=32
  saboc benchmark --cells=5 --contestants=one_backward,train_step --nomemory
"""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.devices import cores
from saboc_jax.extras import needed
from saboc_jax.files import write_json
from saboc_jax.keys import root_key
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces.masks import sample_connected
from saboc_jax.types import SearchSpace

from .benchmarking import costs
from .benchmarking import plot as benchmark_plot
from .benchmarking.contestants import MATMUL, TORCH, Case, Contestant, Prepared, all_contestants
from .benchmarking.timing import Times, measure, summarise
from .support import common, pictures, workdir

NUM_ARCHS = flags.DEFINE_integer("num_archs", 8, "Random connected cells to measure on.", 1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds over contestants at every cell.", 1)
FEW_CELLS = flags.DEFINE_integer(
    "few_cells", 4, "Cells for contestants that are slow or compile for every cell.", 1
)
CONTESTANTS = flags.DEFINE_list("contestants", [], "Which ones; default all.")
SUPERNET = flags.DEFINE_bool("supernet", True, "Also time the full supernet.")
MEMORY = flags.DEFINE_bool("memory", True, "Also count the memory of compiled programs.")
OUT = flags.DEFINE_string("out", None, "JSON file to write, with a plot of the same name.")


def draw_cases(space: SearchSpace, number: int) -> list[Case]:
    """Draws random cells with a path from input to output, on the same weights and images."""
    key = root_key(common.SEED.value)
    variables = jax.jit(space.init)(key)
    images = jax.random.normal(key, (common.BATCH_SIZE.value, *space.image_shape))
    found = sample_connected(key, space.decisions, number)
    network = (common.CHANNELS.value, common.CELLS.value, cores())
    return [Case(space, a, space.gates(a), variables, images, *network) for a in found]


def chosen(space: SearchSpace, names: list[str]) -> dict[str, Contestant]:
    """Returns the named contestants; without names, all.

    Raises:
        ValueError: if a name is unknown.
        MissingExtraError: if a contestant needs PyTorch and it is not installed.
    """
    known = all_contestants(space)
    if set(names) & set(TORCH) - set(known):
        with needed("peers", "A contestant of PyTorch"):
            import torch  # noqa: F401
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"contestants {unknown} are unknown; allowed: {list(known)}")
    return {name: known[name] for name in names or known}


def training_step(space: SearchSpace) -> dict[str, Any]:
    """Measures the seconds of one forward and backward pass of the gated network."""
    found = measure(
        draw_cases(space, NUM_ARCHS.value), chosen(space, ["train_step"]), ROUNDS.value, 1
    )
    return summarise(found, "train_step")["train_step"]


def roofline(cases: list[Case], times: Mapping[str, Times]) -> dict[str, float]:
    """Returns the GFLOP/s of `one_backward` and of the matrix product, per CPU second."""
    work = np.asarray([costs.ntk_flops(case) for case in cases])
    seconds = np.median(times["one_backward"].cpu, 0)
    product = 2.0 * MATMUL**3 / np.median(times["matmul"].cpu) / 1e9
    achieved = work.sum() / seconds.sum() / 1e9
    return {
        "one_backward GFLOP/s": float(achieved),
        "matmul GFLOP/s": float(product),
        "share": float(achieved / product),
    }


def agreement(first: Mapping[str, Prepared]) -> dict[str, float]:
    """Returns the engines' largest kernel difference on one cell, over the largest entry."""
    frozen = ("one_backward", "neural_tangents", "one_backward_module", "neural_tangents_module")
    kernels = {}
    for name in (name for name in frozen if name in first):
        kernel = first[name].run()
        kernels[name] = np.asarray(kernel[0] if isinstance(kernel, list) else kernel)
    ours = kernels.pop("one_backward", None)
    if ours is None:
        return {}
    return {name: float(abs(k - ours).max() / abs(ours).max()) for name, k in kernels.items()}


def supernet_times(case: Case, contestants: Mapping[str, Contestant]) -> dict[str, Any]:
    """Times the gated contestants on the full supernet."""
    mask = np.ones((len(case.space.choices), max(case.space.choices)))
    some = {name: who for name, who in contestants.items() if who.gated and not who.few}
    full = case._replace(arch=None, gates=case.space.gates(mask))
    return summarise(measure([full], some, ROUNDS.value, 1), next(iter(some))) if some else {}


def run_all(space: SearchSpace, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Runs all measurements by section; saves after each, because a run takes long."""
    cases, contestants = draw_cases(space, NUM_ARCHS.value), chosen(space, CONTESTANTS.value)
    first: dict[str, Prepared] = {}
    times = measure(cases, contestants, ROUNDS.value, FEW_CELLS.value, first)
    sections: dict[str, Callable[[], Any]] = {
        "results": lambda: summarise(times, next(iter(contestants))),
        "relative difference of kernels": lambda: agreement(first),
    }
    if {"one_backward", "matmul"} <= set(times):
        sections["roofline"] = lambda: roofline(cases, times)
    if SUPERNET.value:
        sections["supernet"] = lambda: supernet_times(cases[0], contestants)
    if MEMORY.value:
        sections["memory"] = lambda: costs.memory_rows(cases[0])
    record: dict[str, Any] = {}
    for name, compute in sections.items():
        record[name] = compute()
        save(record)
    return record


def write(record: dict[str, Any], title: str) -> None:
    """Writes the results so far, and the plot."""
    if not OUT.value:
        return
    out = Path(OUT.value)
    machine = {
        "threads": cores(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "load average": list(os.getloadavg()),
    }
    settings = {"settings": workdir.flag_values("out"), **workdir.environment(), "machine": machine}
    write_json(out, settings | record)
    base = next(iter(record["results"]))
    results = record["results"]
    draw = functools.partial(benchmark_plot.draw, results, base, title)
    pictures.keep(out.with_suffix(".png"), draw, dpi=120)


def show(console: Console, record: Mapping[str, Any], title: str) -> None:
    """Prints the tables."""
    for section in ("results", "supernet"):
        rows = [
            {
                "contestant": name,
                "cells": row["cells"],
                **{k: row[k] for k in ("compile s", "run s", "cpu s") if k in row},
                "wall ratio": row["wall ratio"],
                "CPU ratio": row["cpu ratio"],
                "quartiles": f"{row['cpu ratio q1']:.3g} to {row['cpu ratio q3']:.3g}",
            }
            for name, row in record.get(section, {}).items()
        ]
        if rows:
            heading = title if section == "results" else "Full supernet"
            console.print(results_table(rows, title=heading))
    for section in ("roofline", "relative difference of kernels"):
        if record.get(section):
            console.print(results_table([record[section]], title=section.capitalize()))
    if record.get("memory"):
        console.print(results_table(record["memory"], title="Memory of compiled programs"))
    if not set(TORCH) & set(record["results"]):
        console.print("Without PyTorch contestants: they need the extra `peers`, or were not named")


def main() -> None:
    """Measures, prints, writes."""
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    space = common.build_space(common.load_dataset())
    title = (
        f"C={common.CHANNELS.value}, N={common.CELLS.value}, n={common.BATCH_SIZE.value}, "
        f"{NUM_ARCHS.value} random cells, {ROUNDS.value} rounds, {cores()} threads each"
    )
    record = run_all(space, lambda record: write(record, title))
    show(Console(highlight=False, markup=False), record, title)


if __name__ == "__main__":
    common.set_defaults(compilation_cache=False)  # it measures compilation, or beside it
    common.run(
        main,
        unread=(
            *common.SCORING,
            *common.RAY,
            "repeats",
        ),
    )
