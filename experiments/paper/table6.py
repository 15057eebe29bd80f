"""Table 6: REINFORCE and evolution on NAS-Bench-201 by three scorers, beside the paper's numbers.

Each search has its control, which the paper lacks: random search with the same scorer, seed and
number of evaluations. Searches of a seed share the scores of the cells they meet.

Examples:
  saboc paper.table6 --dataset=cifar10 --channels=4 --repeats=1 --out=runs/table6
  saboc paper.table6 --quick
"""

from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.evaluation.store import Store

from ..support import common
from . import searches
from .published import TABLE_6

METHODS = flags.DEFINE_list("methods", ["az_nas", "teg_nas", "ntk_score"], "Scorers, by commas.")
STEPS = flags.DEFINE_integer("steps", 500, "Evaluations of REINFORCE.", 1)
POPULATION = flags.DEFINE_integer("population", 256, "Population of evolution.", 4)
CHILDREN = flags.DEFINE_integer("children", 1000, "Children that evolution scores.", 1)


def main() -> None:
    """Searches, compares, writes."""
    if searches.QUICK.value:
        common.set_defaults(
            dataset="digits", channels=4, batch_size=8, repeats=1, seeds=2, steps=12,
            population=8, children=8, methods=["synflow", "ntk_score"],
        )  # fmt: skip
    console = Console(highlight=False, markup=False)
    evaluations = POPULATION.value + CHILDREN.value
    plans = {
        "reinforce": {"max_evaluations": STEPS.value},
        "evolution": {"max_evaluations": evaluations, "population_size": POPULATION.value},
    }
    runs: list[searches.Run] = []
    seeds = searches.seeds()
    total = 4 * len(seeds) * len(METHODS.value)
    with Store(searches.STORE.value) as store, progress.bar("searches", total, console) as bar:
        laboratory = searches.Laboratory(store, console, bar)
        for seed in seeds:
            for scorer in METHODS.value:
                for name, options in plans.items():
                    searcher = laboratory.searcher(name, scorer, **options)
                    count = options["max_evaluations"]
                    control = laboratory.searcher("random", scorer, max_evaluations=count)
                    runs.append(laboratory.run(name, searcher, scorer, seed))
                    runs.append(laboratory.run(f"random {count}", control, scorer, seed))
    rows = searches.accuracy_rows(runs, TABLE_6)
    chance = {"search": "any cell", **searches.chance(laboratory.table, False)}
    tables = {"Table 6": [*rows, chance]}
    for name, options in plans.items():
        rival = f"random {options['max_evaluations']}"
        if searches.OURS in METHODS.value:
            others = [key for key in searches.grouped(runs) if key[0] in (name, rival)]
            others.remove((name, searches.OURS))
            tables[f"{name} by SABoC is better by"] = searches.difference_rows(
                runs, (name, searches.OURS), others
            )
        tables[f"{name} is better than {rival} by"] = [
            row
            for scorer in METHODS.value
            for row in searches.difference_rows(runs, (name, scorer), [(rival, scorer)])
        ]
    searches.report(console, "table6", runs, tables)


if __name__ == "__main__":
    common.run(main, many_devices=True)
