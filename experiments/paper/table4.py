"""Table 4: pruning on DARTS by every method, beside the paper's numbers.

The defaults are the paper's settings, five seeds and n=64, and TE-NAS's where the paper has none: a
network of one normal and one reduction cell with C=1, three repeats; an edge loses three of its
seven operations in a round (`none` is left out), then nodes lose inputs until two are left.

What is found is given by its genotype and by the size of the network that DARTS trains (C=36, 20
cells). Its accuracy needs the training whose command stands beside it, so the paper's errors stand
alone. Of the few genotypes in `darts_nb301_surrogate.csv` the accuracy that the SURROGATE predicts
is given, too.

Examples:
  saboc paper.table4 --dataset=cifar10 --store=runs/t4.sqlite --out=runs/table4
  saboc paper.table4 --dataset=cifar100 --store=runs/t4.sqlite --out=runs/table4c
  saboc paper.table4 --quick
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.data import Dataset
from saboc_jax.evaluation.store import Store
from saboc_jax.keys import Purpose, key_for, root_key
from saboc_jax.progress import Bar
from saboc_jax.searchers import make_searcher
from saboc_jax.searching.result import evaluations
from saboc_jax.spaces.darts import codec
from saboc_jax.spaces.darts.cells import from_genotype
from saboc_jax.spaces.darts.trained import trained

from ..support import common, training
from . import searches
from .published import TABLE_4

METHODS = flags.DEFINE_list("methods", list(TABLE_4), "Scorers, by commas.")
PRUNE_NUMBER = flags.DEFINE_integer("prune_number", 3, "What a decision loses in a round.", 1)


@dataclass(frozen=True)
class DartsRun:
    """One search.

    Attributes:
        scorer: its name.
        seed: of weights, images and the search.
        architecture: the genotype that it found, as text.
        params: of the network that DARTS trains, without auxiliary head.
        macs: multiply-accumulates of that network for one image.
        surrogate: CIFAR-10 accuracy in percent that NAS-Bench-301's surrogate predicts; None: the
            table does not hold the genotype.
        evaluations: number of supernets it asked for.
        seconds: seconds to score them.
        train: the command that trains it.
    """

    scorer: str
    seed: int
    architecture: str
    params: int
    macs: int
    surrogate: float | None
    evaluations: int
    seconds: float
    train: str


def surrogate() -> dict[str, float]:
    """Returns predicted accuracies by the text of the genotype; {} if the file is missing."""
    try:
        table = benchmarks.load_darts_surrogate(common.DATA_DIR.value)
    except FileNotFoundError:
        return {}
    texts = [codec.to_string(from_genotype(genotype)) for genotype in table.genotypes()]
    return dict(zip(texts, table.accuracies.tolist(), strict=True))


class Methods:
    """The searches of one dataset; they share the space, the store and a scorer's programs."""

    def __init__(self, dataset: Dataset, store: Store, bar: Bar | None = None) -> None:
        self._bar = bar
        self._dataset, self._space = dataset, common.build_space(dataset)
        self._evaluators = searches.Evaluators(dataset, self._space, store)
        self.known = surrogate()

    def run(self, name: str, seed: int) -> DartsRun:
        """Prunes by one scorer."""
        evaluator = self._evaluators.of(name, seed)
        searcher = make_searcher(
            "pruning",
            self._space,
            evaluator.scorer.higher_is_better,
            prune_number=PRUNE_NUMBER.value,
        )
        key = key_for(root_key(seed), Purpose.SEARCH)
        found = searches.followed(self._bar, f"{name} seed {seed}", searcher, evaluator, key)
        text = self._space.to_string(found.arch)
        cost = trained(self._space).cost(found.arch)
        return DartsRun(
            name,
            seed,
            text,
            cost.params,
            cost.macs,
            self.known.get(text),
            evaluations(found.history),
            evaluator.counts.run_seconds + evaluator.counts.stored_seconds,
            training.command("darts", self._dataset.name, f"{name}-{seed}", text),
        )


def rows(runs: list[DartsRun]) -> list[dict[str, Any]]:
    """Returns one row for each method: our mean over seeds, and the paper's number."""
    found = []
    for name in dict.fromkeys(run.scorer for run in runs):
        of_method = [run for run in runs if run.scorer == name]
        predicted = [run.surrogate for run in of_method if run.surrogate is not None]
        cifar10, cifar100, seconds = TABLE_4.get(name, (np.nan,) * 3)
        found.append({
            "score": name,
            "params (M)": searches.mean_and_deviation([run.params / 1e6 for run in of_method]),
            "MACs (M)": searches.mean_and_deviation([run.macs / 1e6 for run in of_method]),
            "evaluations": of_method[0].evaluations,
            "s": searches.mean_and_deviation([run.seconds for run in of_method]),
            "in the surrogate's table": f"{len(predicted)} of {len(of_method)}",
            "surrogate's accuracy": searches.mean_and_deviation(predicted) if predicted else None,
            "CIFAR-10 error paper": round(100 - cifar10, 2),
            "CIFAR-100 error paper": round(100 - cifar100, 2),
            "s paper": seconds,
        })  # fmt: skip
    return found


def main() -> None:
    """Searches, compares, writes."""
    common.set_defaults(space="darts", channels=1)
    if searches.QUICK.value:
        common.set_defaults(
            dataset="digits", batch_size=8, repeats=1, seeds=2,
            methods=["ete_nas", "lga", "ntk_score"],
        )  # fmt: skip
    console = Console(highlight=False, markup=False)
    dataset = common.load_dataset()
    runs: list[DartsRun] = []
    seeds = searches.seeds()
    total = len(seeds) * len(METHODS.value)
    with Store(searches.STORE.value) as store, progress.bar("searches", total, console) as bar:
        methods = Methods(dataset, store, bar)
        # Seeds are the outer loop, so that an unfinished study compares all methods.
        for seed in seeds:
            for name in METHODS.value:
                runs.append(methods.run(name, seed))
                console.print(f"{name} seed {seed}: {runs[-1].architecture}", soft_wrap=True)
    known = len(methods.known)
    held = f"the table of {known} genotypes" if known else "no table was found"
    text = (
        f"{common.network_text()} and {searches.SEEDS.value - 1} more seeds, searched on "
        f"{dataset.name}; mean ± standard deviation over seeds; parameters and MACs "
        "with C=36 and 20 cells; the paper's errors are in percent after its training, ours were "
        f"not trained; surrogate: NAS-Bench-301's prediction, where {held} holds the genotype"
    )
    searches.report(console, "table4", runs, {"Table 4": rows(runs)}, text)


if __name__ == "__main__":
    common.run(main, many_devices=True)
