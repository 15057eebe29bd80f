"""Table 3: pruning on NAS-Bench-201 by every scorer, beside the paper's numbers.

Each search is followed by its control, which the paper lacks: random search with the same
scorer, seed, cells (those without `none`) and number of evaluations. The paper searches on
each dataset; here the architecture found on `--dataset` is looked up in all three tables. NASWOT
is searched with too, without a number of the paper's beside it.

Examples:
  saboc paper.table3 --dataset=cifar10 --channels=4 --repeats=1 --out=runs/table3
  saboc paper.table3 --quick
"""

from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.evaluation.store import Store

from ..support import common
from . import searches
from .published import METHODS_3, TABLE_3

METHODS = flags.DEFINE_list("methods", list(METHODS_3), "Scorers, by commas.")


def main() -> None:
    """Searches, compares, writes."""
    if searches.QUICK.value:
        common.set_defaults(
            dataset="digits", channels=4, batch_size=8, repeats=1, seeds=2,
            methods=["synflow", "naswot", "ntk_score"],
        )  # fmt: skip
    console = Console(highlight=False, markup=False)
    runs: list[searches.Run] = []
    seeds = searches.seeds()
    total = 2 * len(seeds) * len(METHODS.value)
    with Store(searches.STORE.value) as store, progress.bar("searches", total, console) as bar:
        laboratory = searches.Laboratory(store, console, bar)
        # Seeds are the outer loop, so that an unfinished study compares all methods.
        for seed in seeds:
            for scorer in METHODS.value:
                pruned = laboratory.run(
                    "pruning", laboratory.searcher("pruning", scorer), scorer, seed
                )
                control = laboratory.random_like_pruning(scorer, pruned.evaluations)
                runs += [pruned, laboratory.run("random", control, scorer, seed)]
    published = {("pruning", name): row for name, row in TABLE_3.items()}
    rows = searches.accuracy_rows(runs, published)
    chance = {"search": "any cell without none", **searches.chance(laboratory.table, True)}
    tables = {"Table 3": [*rows, chance]}
    ours = ("pruning", searches.OURS)
    groups = [key for key in searches.grouped(runs) if key != ours]
    if len(groups) < len(rows):
        tables["Pruning by SABoC is better by"] = searches.difference_rows(runs, ours, groups)
    tables["Pruning is better than random search by"] = [
        row
        for name in METHODS.value
        for row in searches.difference_rows(runs, ("pruning", name), [("random", name)])
    ]
    searches.report(console, "table3", runs, tables)


if __name__ == "__main__":
    common.run(main, many_devices=True)
