"""Measures seconds per architecture of every scorer by itself, compile and run time apart.

Scorers take turns on the same random connected architectures. Ratios are to one forward and
backward pass of the same gated network and batch (`train_step` of `saboc benchmark`).

Examples:
  saboc scorer_seconds --channels=8 --num_archs=8
  saboc scorer_seconds --scorers=ntk_score,synflow --out=runs/seconds.json
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.data import Dataset
from saboc_jax.files import write_json
from saboc_jax.keys import root_key
from saboc_jax.progress import track
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces.masks import architecture_to_mask, sample_connected
from saboc_jax.types import SearchSpace

from . import benchmark
from .support import common, workdir

SCORER_NAMES = flags.DEFINE_list("scorers", ["all"], "Scorers, by commas, or all (but latency).")


def drawn_masks(space: SearchSpace, number: int) -> np.ndarray:
    """Random architectures with a path from input to output."""
    key = root_key(common.SEED.value)
    archs = sample_connected(key, space.decisions, number)
    return architecture_to_mask(archs, max(space.choices))


def seconds_of(dataset: Dataset, space: SearchSpace, name: str) -> dict[str, float]:
    """Compile seconds of a scorer, and its run seconds per architecture."""
    scorer = common.build_scorer([name], space)
    evaluator = common.build_evaluator(dataset, space, scorer)
    masks = drawn_masks(space, benchmark.NUM_ARCHS.value + 1)
    evaluator.score(masks[0], 0)  # compiles, and warms up
    runs = []
    for mask in masks[1:]:
        start = time.perf_counter()
        evaluator.score(mask, 0)
        runs.append(time.perf_counter() - start)
    return {
        "compile s": evaluator.counts.compile_seconds,
        "run s": float(np.mean(runs)),
        "median s": float(np.median(runs)),
        "max s": float(np.max(runs)),
    }


def main() -> None:
    """Measures, prints, writes."""
    console = Console(highlight=False, markup=False)
    dataset = common.load_dataset()
    space = common.build_space(dataset)
    names = common.scorer_names(SCORER_NAMES.value)
    step = benchmark.training_step(space)
    results: dict[str, dict[str, Any]] = {"train_step": step}
    for name in track(names, "measuring", console, calm=True):
        results[name] = seconds_of(dataset, space, name)
    rows = [
        {
            "scorer": name,
            "compile s": values["compile s"],
            "run s": values["run s"],
            "ratio": values["run s"] / step["run s"],
        }
        for name, values in results.items()
    ]
    title = (
        f"C={common.CHANNELS.value}, N={common.CELLS.value}, n={common.BATCH_SIZE.value}, "
        f"{dataset.name}: seconds per architecture, mean over {benchmark.NUM_ARCHS.value}"
    )
    console.print(results_table(rows, title=title))
    if benchmark.OUT.value:
        record = workdir.run_record("out")
        write_json(Path(benchmark.OUT.value), record | {"results": results})


if __name__ == "__main__":
    common.set_defaults(compilation_cache=False)  # it measures compilation, or beside it
    common.run(
        main,
        unread=(
            "contestants",
            "few_cells",
            "memory",
            "supernet",
        ),
    )
