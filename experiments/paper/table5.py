"""Table 5: evolution on ResNets by every scorer, beside the paper's rows.

The defaults are the paper's settings: population 256, 24,000 iterations, at most 1e6 parameters
and 18 layers by Zen-NAS's counting. What is found here is given by its structure and size; its
accuracy needs the training whose command is told, so the paper's accuracies stand alone.

TE-NAS and TEG-NAS count linear regions in a network of one cell, which ResNets have not: here
they are their other metrics, as the column `metrics` says (Zen-NAS runs TE-NAS by kappa alone).

Examples:
  saboc paper.table5 --dataset=cifar100 --store=runs/t5.sqlite --out=runs/table5
  saboc paper.table5 --quick
"""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.evaluation.store import Store
from saboc_jax.files import write_json
from saboc_jax.keys import Purpose, key_for, root_key
from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.searchers import make_searcher
from saboc_jax.searching.run import run_search
from saboc_jax.spaces.dtype import in_dtype

from ..support import common, training, workdir
from . import resnets
from .published import TABLE_5

METHODS = flags.DEFINE_list("methods", list(TABLE_5), "Scorers, by commas.")
POPULATION = flags.DEFINE_integer("population", 256, "Members at most.", 4)
ITERATIONS = flags.DEFINE_integer("iterations", 24_000, "Candidates, rejected ones included.", 1)
MAX_WIDTH = flags.DEFINE_integer("max_width", 2048, "Widest layer.", 8)
MAX_PARAMS = flags.DEFINE_float("max_params", 1e6, "Budget, by Zen-NAS's counting.")
MAX_LAYERS = flags.DEFINE_integer("max_layers", 18, "Budget, by Zen-NAS's counting.")
QUICK = flags.DEFINE_bool("quick", False, "The same at a small size, in some minutes.")
OUT = flags.DEFINE_string("out", None, "Folder of table5.json.")
STORE = flags.DEFINE_string(
    "store", None, "File of scores: the same command goes on where it was interrupted."
)


def search(console: Console, name: str, dataset: Any, store: Store | None) -> dict[str, Any]:
    """Runs one evolution by one scorer; returns its result and its cost."""
    # Zen-NAS scores the network without its residual links.
    space = resnets.build_space(dataset, MAX_WIDTH.value, common.INIT.value, name != "zen")
    space = in_dtype(space, common.PRECISION.value)
    scorer = common.build_scorer([name], space)
    evaluator = common.build_evaluator(dataset, space, scorer, store)
    residual = "plain" if name == "zen" else "residual"
    evaluator.space_id = f"resnet/{residual}k{space.num_classes}/{common.INIT.value}"
    evaluator.space_id += common.dtype_text(space)
    searcher = make_searcher(
        "evolution",
        space,
        scorer.higher_is_better,
        max_evaluations=ITERATIONS.value,
        population_size=POPULATION.value,
    )
    allows = resnets.zen_budget(space, MAX_PARAMS.value, MAX_LAYERS.value)
    start = time.perf_counter()
    with progress.bar(name, ITERATIONS.value, console) as bar:
        found = run_search(
            searcher,
            evaluator,
            key_for(root_key(common.SEED.value), Purpose.SEARCH),
            on_step=lambda step, candidates: bar.reach(step),
            allows=allows,
        )
    size, text = resnets.size_of(space, found.arch), space.to_string(found.arch)
    return {
        "method": name,
        "metrics": " ".join(scorer.metrics),
        "hours": (time.perf_counter() - start) / 3600,
        "compile_hours": evaluator.counts.compile_seconds / 3600,
        "scored": evaluator.counts.scored,
        "rejected": found.rejected,
        "params": size.params,
        "MACs": size.macs,
        "layers": size.depth,
        "structure": text,
        "train": training.command("resnet", dataset.name, f"{name}-{common.SEED.value}", text),
    }


def main() -> None:
    """Searches, compares, writes."""
    if QUICK.value:
        common.set_defaults(
            dataset="digits", batch_size=8, repeats=1, population=4, iterations=12, max_width=128,
            methods=["naswot", "ntk_score"],
        )  # fmt: skip
    console = Console(highlight=False, markup=False)
    dataset = common.load_dataset()
    rows = []
    with Store(STORE.value) if STORE.value else nullcontext() as store:
        for name in METHODS.value:
            row = search(console, name, dataset, store)
            paper = {f"paper {key}": value for key, value in TABLE_5.get(name, {}).items()}
            rows.append(row | paper)
            console.print(f"{name}: {row['structure']}\n  {row['train']}", soft_wrap=True)
    left = [{"method": n} | {f"paper {k}": v for k, v in TABLE_5[n].items()}
            for n in TABLE_5 if n not in METHODS.value]  # fmt: skip
    rows += left
    shown = [{k: v for k, v in row.items() if k not in ("structure", "train")} for row in rows]
    console.print(results_table(shown, title=f"Table 5, scored on {dataset.name}"))
    if OUT.value:
        folder = Path(OUT.value)
        settings = workdir.flag_values("out") | {"dataset": dataset.name}
        write_json(
            folder / "table5.json", {"settings": settings, **workdir.environment(), "rows": rows}
        )
        report_html.write(folder)


if __name__ == "__main__":
    common.run(main, unread=("redraw_zeros", "space"))
