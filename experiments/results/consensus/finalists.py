"""Prints the finalists of `consensus` on kept scores: tau on cells and on DARTS, the best of m.

python experiments/results/consensus/finalists.py
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from saboc_jax.benchmarks.tables import load_darts_swap, load_nas_bench_201
from saboc_jax.spaces import make_space
from saboc_jax.spaces.darts.genotypes import from_genotype
from saboc_jax.statistics import ranking, winners

FOLDER = Path(__file__).parent
HIGHER = {"S_g": False, "jacob_cov": True, "zen": True, "swap": True}
FINALISTS = {
    1: ("S_g", "jacob_cov", "params", "chain", "pool_free", "volume"),
    2: ("S_g", "jacob_cov", "params", "chain", "pool_free"),
    3: ("S_g", "jacob_cov", "zen", "params", "chain", "pool_free"),
    4: ("S_g", "jacob_cov", "zen", "swap", "params", "chain", "pool_free"),
    5: ("S_g", "zen", "swap", "params", "chain", "pool_free"),
    6: ("S_g", "jacob_cov", "params", "chain", "mean"),
}


def read(name: str) -> list[dict[str, str]]:
    """The rows of a kept file."""
    with (FOLDER / name).open() as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    """One score, mean over its draws; what is not finite is the worst."""
    kept = [key for key in rows[0] if key.split(" (")[0].split(".")[-1] == name]
    values = np.array([[float(row[key]) for key in kept] for row in rows]).mean(1)
    return np.where(np.isfinite(values), values, -np.inf if HIGHER[name] else np.inf)


def ranks(rows: list[dict[str, str]], space: Any, archs: Any, names: Any) -> np.ndarray:
    """The ranks by `agreement`; an architecture without a path is last."""
    counted = [space.costs.structure(arch) for arch in archs]
    columns = [
        column(rows, name) if name in HIGHER else np.array([getattr(s, name) for s in counted])
        for name in names
    ]
    table = np.stack(columns, 1).astype(float)
    table[[s.longest == 0 for s in counted]] = np.nan
    return np.asarray(ranking.agreement(table, [HIGHER.get(name, True) for name in names]))


def main() -> None:
    """Prints a line for each finalist."""
    cells, even = read("cells/scores-cifar10.csv"), read("darts_even.csv")
    space, darts = make_space("nas_bench_201"), make_space("darts_genotypes")
    archs = np.stack([space.from_string(row["architecture"]) for row in cells])
    table = load_nas_bench_201()
    accuracies = [table.accuracy(d, archs) for d in ("cifar10", "cifar100", "imagenet16_120")]
    swap = load_darts_swap()
    genotypes = [from_genotype(each) for each in swap.genotypes()[::2]]
    trained = np.asarray(swap.accuracies)[::2]
    for number, names in FINALISTS.items():
        own = ranks(cells, space, archs, names)
        taus = [ranking.kendall(-own, accuracy) for accuracy in accuracies]
        taus.append(ranking.kendall(-ranks(even, darts, genotypes, names), trained))
        best = [
            [p.expected for p in winners.winners(own, accuracy, (57, 256, 1024), resamples=1)]
            for accuracy in accuracies
        ]
        print(number, *(f"{v:.3f}" for v in taus), *(f"{v:.2f}" for row in best for v in row))


if __name__ == "__main__":
    main()
