"""Measures scores a second on Ray for several numbers of workers, and what the driver spends.

Example:
  saboc ray_throughput --dataset=digits --channels=4 --batch_size=16 --num_archs=300
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.ray import RayExecutor
from saboc_jax.evaluation.store import Store
from saboc_jax.files import write_json
from saboc_jax.progress import track
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces.masks import architecture_to_mask

from .support import common, scoring, workdir

WORKERS = flags.DEFINE_list("workers", ["1", "2"], "Numbers of workers.")
OUT = flags.DEFINE_string("out", "runs/ray_throughput.json", "Where the result is kept.")


def warm_up(evaluator: Evaluator, executor: RayExecutor, masks: np.ndarray) -> np.ndarray:
    """Scores masks until every worker has started and compiled; gives those that are left."""
    workers, compiles = executor.num_workers, bool(evaluator.scorer.observables)
    while len(executor.pids) < workers or evaluator.counts.compilations < workers * compiles:
        if not len(masks):
            raise ValueError("no architecture is left after the warm-up; allowed: more --num_archs")
        evaluator.evaluate(masks[: 2 * workers])
        masks = masks[2 * workers :]
        if len(executor.pids) < workers:
            time.sleep(0.5)
    return masks


def measure(workers: int, names: list[str], store: Path) -> dict[str, Any]:
    """Scores a second with warm workers; the store is new, so nothing is served."""
    dataset = common.load_dataset()
    space = common.build_space(dataset)
    scorer = common.build_scorer(names, space)
    masks = architecture_to_mask(scoring.architectures(space), max(space.choices))
    store.unlink(missing_ok=True)
    address = common.RAY_ADDRESS.value
    with Store(store) as rows, RayExecutor(workers, address) as executor:
        evaluator = common.build_evaluator(dataset, space, scorer, rows)
        evaluator.executor = executor
        started = time.perf_counter()
        masks = warm_up(evaluator, executor, masks)
        warm, before = time.perf_counter(), evaluator.counts.scored
        evaluator.evaluate(masks)
        seconds, scored = time.perf_counter() - warm, evaluator.counts.scored - before
    return {
        "scorer": scorer.name,
        "workers": workers,
        "warm-up s": round(warm - started, 1),
        "scores": scored,
        "seconds": round(seconds, 2),
        "scores/s": round(scored / seconds, 2),
    }


def main() -> None:
    """Measures, shows and keeps."""
    out = Path(OUT.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    store = out.with_suffix(".sqlite")
    numbers = [int(number) for number in WORKERS.value]
    # Parameters cost next to nothing: what is left is the driver and Ray.
    runs = [(n, scoring.scorer_names()) for n in numbers] + [(max(numbers), ["params"])]
    console = Console(highlight=False, markup=False)
    results = [measure(*run, store) for run in track(runs, "measuring", console, calm=True)]
    store.unlink()
    record = workdir.run_record("out", "store")
    write_json(out, {**record, "ray": ray_version(), "results": results})
    console.print(results_table(results, title="Scores on Ray"))


def ray_version() -> str:
    """The installed version of Ray."""
    from importlib.metadata import version

    return version("ray")


if __name__ == "__main__":
    common.set_defaults(compilation_cache=False)  # it measures compilation, or beside it
    common.run(main, unread=("store",))
