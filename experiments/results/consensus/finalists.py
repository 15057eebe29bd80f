"""Prints the finalists of `consensus` on kept scores: tau on cells and on DARTS, the best of m.

On tables that it was not chosen on it also writes further.csv: tau, that of parameters, and the
paired bootstrap interval of the difference. A table with several columns of accuracies counts by
their mean.

python experiments/results/consensus/finalists.py
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from saboc_jax.benchmarks.accuracies import read_table
from saboc_jax.benchmarks.known_tables import find
from saboc_jax.benchmarks.tables import DATASETS, load_darts_swap, load_nas_bench_201
from saboc_jax.scorers.consensus import WITNESSES
from saboc_jax.spaces import make_space
from saboc_jax.spaces.darts.genotypes import from_genotype
from saboc_jax.spaces.trained import trained_cost
from saboc_jax.statistics import ranking, winners

FOLDER = Path(__file__).parent
HIGHER = {"S_g": False, "jacob_cov": True, "zen": True, "swap": True}
SIZE = ("params", "macs", "volume", "activations")  # several measures that are one witness
Names = tuple[str | tuple[str, ...], ...]
FINALISTS: dict[int, Names] = {
    1: ("S_g", "jacob_cov", "params", "chain", "pool_free", "volume"),
    2: ("S_g", "jacob_cov", "params", "chain", "pool_free"),
    3: ("S_g", "jacob_cov", "zen", "params", "chain", "pool_free"),
    4: ("S_g", "jacob_cov", "zen", "swap", "params", "chain", "pool_free"),
    5: ("S_g", "zen", "swap", "params", "chain", "pool_free"),
    6: ("S_g", "jacob_cov", "params", "chain", "mean"),
    7: ("S_g", "jacob_cov", SIZE, "chain", "pool_free"),
    8: ("S_g", "jacob_cov", SIZE, "chain", "pool_free"),
    9: ("S_g", "jacob_cov", SIZE, "chain", "pool_free"),
    10: ("S_g", "jacob_cov", "params", SIZE[1:], "chain", "pool_free"),
}
TABLES = (
    *("nas_bench_101", "nas_bench_macro", "nats_sss", "autoformer", "pit"),
    *("darts_trained", "other_cells"),
)
RESAMPLES = 1000
OTHERS = {"mean": "paths.mean"}  # of which scorer a witness is, if of none named like it


def read(name: str) -> list[dict[str, str]]:
    """The rows of a kept file."""
    with (FOLDER / name).open() as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    """One score, mean over its draws; what is not finite is the worst."""
    kept = [key for key in rows[0] if key.split(" (")[0].split(".")[-1] == name]
    values = np.array([[float(row[key]) for key in kept] for row in rows]).mean(1)
    return np.where(np.isfinite(values), values, -np.inf if HIGHER[name] else np.inf)


def agreed(witnesses: dict[str, np.ndarray], number: int) -> np.ndarray:
    """The ranks of one finalist, by the witnesses that there are."""
    columns, higher = [], []
    for name in FINALISTS[number]:
        together = flat((name,))
        there = {each: witnesses[each] for each in together if each in witnesses}
        directions = [HIGHER.get(each, True) for each in there]
        if len(together) > 1:
            columns.append(
                np.asarray(ranking.log_rank(np.stack(list(there.values()), 1), directions))
            )
            higher.append(False)
        elif there:
            columns.extend(there.values())
            higher.extend(directions)
    table = np.stack(columns, 1)
    table[np.isnan(table).any(1)] = np.nan
    if number in (8, 9):
        return weighted(ranking.per_metric_ranks(table, higher), number)
    return np.asarray(ranking.agreement(table, higher))


def weighted(ranks: np.ndarray, number: int) -> np.ndarray:
    """Adds logarithms of ranks as `agreement`, with the weights of finalists 8 and 9."""
    n, k = ranks.shape
    others = [
        np.median(np.delete(ranks, j, 1), 1) if number == 8 else ranks[:, 2] for j in range(k)
    ]
    said = [ranking.spearman(ranks[:, j], others[j]) for j in range(k)]
    weights = np.maximum(np.maximum(np.nan_to_num(said), 0) ** (4 if number == 8 else 2), 0.01)
    return -(np.log((n + 1 - ranks) / n) * weights).sum(1) / weights.sum()


def ranks(rows: list[dict[str, str]], space: Any, archs: Any, number: int) -> np.ndarray:
    """The ranks of a finalist; an architecture without a path is last."""
    counted = [space.costs.structure(arch) for arch in archs]
    dead = [each.longest == 0 for each in counted]
    found = {}
    for name in flat(FINALISTS[number]):
        if name in HIGHER:
            values = column(rows, name)
        elif name == "macs":
            values = np.array([trained_cost(arch, space).macs for arch in archs], float)
        else:
            values = np.array([getattr(each, name) for each in counted], float)
        found[name] = np.where(dead, np.nan, values)
    return agreed(found, number)


def witness(rows: list[dict[str, str]], name: str) -> np.ndarray | None:
    """A witness of the only draw; None: the space has no such score."""
    own = f"consensus.{name} (repeat 1)"  # the first definition's: it had no MACs or activations
    key = own if name in WITNESSES and own in rows[0] else f"{OTHERS.get(name, name)} (repeat 1)"
    values = np.array([float(row[key]) for row in rows]) if key in rows[0] else np.array([np.nan])
    return None if np.isnan(values).all() else values


def ranks_of(rows: list[dict[str, str]], number: int, macs: np.ndarray) -> np.ndarray:
    """The ranks of a finalist by the witnesses that there are; MACs of the trained networks."""
    names = flat(FINALISTS[number])
    found = {name: values for name in names if (values := witness(rows, name)) is not None}
    return agreed({**found, "macs": macs}, number)


def trained_macs(name: str, rows: list[dict[str, str]]) -> np.ndarray:
    """MACs of the networks that a table's accuracies belong to."""
    own = {"darts_trained": "darts_genotypes", "other_cells": "nas_bench_201"}
    space = make_space(own.get(name, name))
    archs = [space.from_string(row["architecture"]) for row in rows]
    return np.array([trained_cost(arch, space).macs for arch in archs], float)


def flat(names: Names) -> list[str]:
    """All names, those that are one witness too."""
    return [each for name in names for each in ((name,) if isinstance(name, str) else name)]


def taus(order: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Tau of an order, lower is better, with each column of accuracies."""
    known = [~np.isnan(column) for column in truth.T]
    pairs = zip(known, truth.T, strict=True)
    return np.array([ranking.kendall(-order[at], column[at]) for at, column in pairs])


def scored(name: str) -> list[dict[str, str]]:
    """What was scored of a table."""
    other = name == "other_cells"
    return read(f"{name if other else f'../spaces/{name}'}/scores-cifar10.csv")


def accuracies_of(name: str, rows: list[dict[str, str]]) -> np.ndarray:
    """The columns of accuracies of a table, for the architectures of the rows."""
    if name == "darts_trained":
        return np.array([[float(row["accuracy"])] for row in rows])
    space = make_space("nas_bench_201" if name == "other_cells" else name)
    archs = np.stack([space.from_string(row["architecture"]) for row in rows])
    if name == "other_cells":
        cells = load_nas_bench_201()
        return np.stack([cells.accuracy(each, archs) for each in DATASETS], 1)
    table = read_table(find(name), space)
    return np.stack([table.values(archs, column) for column in table.accuracies], 1)


def compared(name: str) -> Iterator[dict[str, str | int | float]]:
    """A row for each finalist on one table."""
    rows = scored(name)
    if name == "other_cells":
        chosen_on = {row["architecture"] for row in read("cells/scores-cifar10.csv")}
        rows = [row for row in rows if row["architecture"] not in chosen_on]
    truth, params, macs = (
        accuracies_of(name, rows),
        witness(rows, "params"),
        trained_macs(name, rows),
    )
    assert params is not None
    draws = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
    by_params = np.array([taus(-params[at], truth[at]).mean() for at in draws])
    other = float(taus(-params, truth).mean())
    for number, names in FINALISTS.items():
        own = ranks_of(rows, number, macs)
        moved = np.array([taus(own[at], truth[at]).mean() for at in draws]) - by_params
        low, high = np.quantile(moved, (0.025, 0.975))
        columns = taus(own, truth)
        tau = float(columns.mean())
        numbers = {"tau": tau, "params": other, "difference": tau - other, "low": low, "high": high}
        yield {
            "table": name,
            "n": len(rows),
            "finalist": number,
            "without": " ".join(each for each in flat(names) if witness(rows, each) is None),
            **{key: round(float(value), 4) for key, value in numbers.items()},
            "tau of each column": " ".join(f"{value:.3f}" for value in columns),
        }


def first() -> None:
    """Prints a line for each finalist."""
    cells, even = read("cells/scores-cifar10.csv"), read("darts_even.csv")
    space, darts = make_space("nas_bench_201"), make_space("darts_genotypes")
    archs = np.stack([space.from_string(row["architecture"]) for row in cells])
    table = load_nas_bench_201()
    accuracies = [table.accuracy(d, archs) for d in DATASETS]
    swap = load_darts_swap()
    genotypes = [from_genotype(each) for each in swap.genotypes()[::2]]
    trained = np.asarray(swap.accuracies)[::2]
    for number in FINALISTS:
        own = ranks(cells, space, archs, number)
        taus = [ranking.kendall(-own, accuracy) for accuracy in accuracies]
        taus.append(ranking.kendall(-ranks(even, darts, genotypes, number), trained))
        best = [
            [p.expected for p in winners.winners(own, accuracy, (57, 256, 1024), resamples=1)]
            for accuracy in accuracies
        ]
        print(number, *(f"{v:.3f}" for v in taus), *(f"{v:.2f}" for row in best for v in row))


def further() -> None:
    """Writes and prints the rows of all tables that were scored."""
    found = [row for name in TABLES for row in compared(name)]
    with (FOLDER / "further.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    for row in found:
        print(*row.values())
    for number in FINALISTS:
        mine = [row for row in found if row["finalist"] == number]
        means = [np.mean([float(row[key]) for row in mine]) for key in ("tau", "params")]
        print("mean", number, *(f"{value:.3f}" for value in means))


def main() -> None:
    """Prints both."""
    first()
    further()


if __name__ == "__main__":
    main()
