"""Searches a space without training, and shows what was found.

Examples:
  python -m experiments.search
  python -m experiments.search --dataset=cifar100 --seed=1 --workdir=runs/cifar100-1
  python -m experiments.search --ntk_engine=neural_tangents --channels=3
"""

import time
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments import common, search_report
from saboc_jax.evaluate import Evaluator
from saboc_jax.ranking import AGGREGATIONS
from saboc_jax.scorers import SCORERS
from saboc_jax.search import SearchResult, run_search
from saboc_jax.searchers import SEARCHERS
from saboc_jax.store import Store
from saboc_jax.types import Scorer, Searcher, SearchSpace

SEARCHER = flags.DEFINE_enum("searcher", "pruning", sorted(SEARCHERS), "Search method.")
SCORER = flags.DEFINE_enum("scorer", "ntk_score", sorted(SCORERS), "Training-free score.")
RANKING = flags.DEFINE_enum(
    "ranking", "borda", sorted(AGGREGATIONS), "How several metrics become one order."
)
MAX_EVALUATIONS = flags.DEFINE_integer(
    "max_evaluations", None, "Architectures to score; None: the searcher's own number.", 1
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run is kept; an interrupted run continues there. Default: runs/SPACE-SEARCHER-"
    "SCORER-DATASET-seedSEED.",
)


def build_searcher(space: SearchSpace, scorer: Scorer) -> Searcher:
    """The searcher of the flags."""
    options: dict[str, Any] = {"ranking": AGGREGATIONS[RANKING.value]}
    if SEARCHER.value == "pruning":
        options |= {"initially_pruned": ("none",), "option_names": space.option_names}
    elif MAX_EVALUATIONS.value:
        options["max_evaluations"] = MAX_EVALUATIONS.value
    return SEARCHERS[SEARCHER.value](space.choices, scorer.higher_is_better, **options)


def search(console: Console, evaluator: Evaluator, searcher: Searcher) -> SearchResult:
    """Runs the search under a progress bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=None)
        evaluator.on_score = lambda: bar.advance(task)

        def on_step(step: int, candidates: int) -> None:
            total = candidates * len(evaluator.keys)
            bar.reset(task, total=total, description=f"step {step + 1}")

        key = jax.random.fold_in(jax.random.key(common.SEED.value), 3)
        return run_search(searcher, evaluator, key, on_step)


def main() -> None:
    """Sets up, searches, reports."""
    console = Console(highlight=False)
    dataset = common.load_dataset()
    space = common.build_space(dataset)
    scorer = common.build_scorer([SCORER.value], space)
    searcher = build_searcher(space, scorer)
    folder = common.open_workdir(
        WORKDIR.value
        or f"runs/{space.name}-{searcher.name}-{scorer.name}-{dataset.name}"
        f"-seed{common.SEED.value}",
        common.flag_values() | {"dataset": dataset.name},
    )
    console.print(
        f"Searching {space.name} by {searcher.name} with {scorer.name} on {dataset.name} "
        f"(C={common.CHANNELS.value}, N={common.CELLS.value}, n={common.BATCH_SIZE.value}, "
        f"{common.REPEATS.value} repeats, seed {common.SEED.value})"
    )
    with Store(folder / "scores.sqlite") as store:
        evaluator = common.build_evaluator(dataset, space, scorer, store)
        start = time.perf_counter()
        found = search(console, evaluator, searcher)
        seconds = time.perf_counter() - start
    summary = search_report.summarise(space, scorer, evaluator, found, seconds)
    settings = common.flag_values() | {"dataset": dataset.name}
    common.write_json(
        folder / "result.json", {"settings": settings, **common.environment(), **summary}
    )
    search_report.show(console, space, summary)
    search_report.draw(folder / "cell.png", space, np.asarray(found.arch))
    console.print(f"Kept in {folder}: result.json, cell.png, scores.sqlite")


if __name__ == "__main__":
    common.run(main)
