"""Searches a space without training, and shows what was found.

Examples:
  saboc search
  saboc search --dataset=cifar100 --seed=1 --workdir=runs/cifar100-1
  saboc search --ntk_engine=neural_tangents --channels=3
  saboc search --searcher=evolution --max_params=20000 --time_budget=600
  saboc search --searcher=evolution --max_latency_ms=2 --latency_batch=8
  saboc search --searcher=random --against=macs --max_evaluations=200
  saboc search --table=hw_nas_bench_cifar10.csv --max_cost=raspi4_latency:10
  saboc search --searcher=aging_evolution --population=64 --store=runs/all.sqlite
"""

import time

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.evaluation.store import Store
from saboc_jax.files import write_json
from saboc_jax.reports import html as report_html
from saboc_jax.scorers import SCORERS
from saboc_jax.scorers.variants import what_ranks
from saboc_jax.searching.assembly import latency_of
from saboc_jax.spaces.isomorphism import representatives

from .support import common, search_report, searcher_flags, searching, workdir

SCORER = flags.DEFINE_list(
    "scorer",
    ["ntk_score"],
    "Training-free score, maybe with options after colons, as in knas:variant=mgm. Several vote as "
    "one: ntk_score+naswot; those after a comma are shown beside the first. One of: "
    f"{', '.join(sorted(SCORERS))}.",
)
STORE = flags.DEFINE_string(
    "store",
    None,
    "Where scores are kept, to share them between runs; default: in the workdir. It is no part of "
    "what identifies a run.",
)
ISOMORPHISM = flags.DEFINE_bool(
    "isomorphism", True, "Isomorphic architectures of equal cost share one score."
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run is kept; an interrupted run continues there. Default: runs/SPACE-SEARCHER-"
    "SCORER-DATASET-seedSEED.",
)


def main() -> None:
    """Sets up, searches, reports."""
    console = Console(highlight=False, markup=False)
    dataset = common.load_dataset()
    space = common.build_space(dataset)
    scorer = common.build_scorer(SCORER.value, space)
    searching.suit(scorer)
    allowed, stopwatch = searching.limits(dataset, space)
    options = searcher_flags.options()
    searcher_flags.warn(console, space, options)
    searcher = searching.build_searcher(space, scorer, allowed, **options)
    evaluator = common.build_evaluator(dataset, space, scorer)
    evaluator.representative_of = representatives(space) if ISOMORPHISM.value else None
    settings = workdir.flag_values("store", *searching.IGNORED) | {"dataset": dataset.name}
    settings |= {"scorer": ",".join(SCORER.value)}
    settings |= evaluator.identity.record(scorer)
    folder = workdir.open_workdir(
        WORKDIR.value
        or f"runs/{space.name}-{searcher.name}-{scorer.name.replace(':', '-')}-{dataset.name}"
        f"-seed{common.SEED.value}",
        settings,
    )
    console.print(
        f"Searching {space.name} by {searcher.name} with {scorer.name} on {dataset.name} "
        f"(C={common.CHANNELS.value}, N={common.CELLS.value}, n={common.BATCH_SIZE.value}, "
        f"{common.REPEATS.value} repeats, seed {common.SEED.value})"
    )
    console.print(what_ranks(scorer, searching.RANKING.value), soft_wrap=True)
    known = searching.truth(space, dataset.name, console)
    trajectory = searching.follow(space, scorer, known)
    with Store(STORE.value or folder / "scores.sqlite") as store:
        evaluator.keep_in(store)
        if stopwatch:
            stopwatch.keep_in(store)
        start = time.perf_counter()
        found = searching.search(console, evaluator, searcher, allowed, trajectory)
        seconds = time.perf_counter() - start
        summary = search_report.summarise(space, scorer, evaluator, found, seconds)
    trajectory.finish(found.arch)
    summary["trajectory"] = searching.keep_trajectory(folder, trajectory, known)
    search_report.show(console, space, summary)
    if stopwatch:
        summary["latency_ms"] = latency_of(stopwatch)(found.arch)
        console.print(f"Measured latency: {summary['latency_ms']:.3g} ms")
    if searching.AGAINST.value:
        summary["pareto_front"] = searching.keep_front(console, folder, space, scorer, found, known)
    record = {"settings": settings, "time_budget": searching.TIME_BUDGET.value}
    write_json(folder / "result.json", {**record, **workdir.environment(), **summary})
    write_json(folder / "candidates.json", search_report.candidates(space, scorer, found))
    search_report.draw(folder, space, np.asarray(found.arch))
    report_html.write(folder)
    console.print(f"Kept in {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


if __name__ == "__main__":
    common.run(main, many_devices=True)
