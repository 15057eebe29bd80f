"""Tau of costs, kernel scores and sums of ranks with ImageNet's accuracies of timm's models.

python experiments/results/timm/correlations.py TABLE FOLDER

TABLE: timm_imagenet.csv. FOLDER: of costs.csv, scores.csv, and of what is written:
correlations.csv over all models, kernels.csv over those whose kernels were computed.
"""

import csv
import sys
from pathlib import Path

import numpy as np

import saboc_jax as sj
from saboc_jax.benchmarks.accuracies import LEAST, AccuracyTable, read_table
from saboc_jax.scorers.consensus import HIGHER_IS_BETTER, SIZE, WITNESSES
from saboc_jax.statistics import correlation, ranking

SIZES = ("params", "macs", "activations", "depth", "longest", "mean", "chain", "volume")
SUMS = (
    ("params", "activations"),
    ("params", "macs"),
    ("macs", "activations"),
    ("params", "macs", "activations"),
    ("params", "activations", "volume"),
    ("params", "chain", "pool_free", "volume"),  # the structure of `consensus`
)


KERNEL = {"S_t": False, "S_e": False, "S_g": False, "jacob_cov": True}  # is higher better?

Row = dict[str, str | int | float]
Group = tuple[np.ndarray, np.ndarray]  # of a recipe: the models' numbers, and their accuracies


def among(table: AccuracyTable, there: np.ndarray) -> tuple[np.ndarray, list[Group]]:
    """The accuracies of some models, and the recipes of so many of them."""
    number, groups = np.cumsum(there) - 1, []
    for models, accuracies in table.groups("recipe").values():
        of_these = there[models]
        if of_these.sum() >= LEAST:
            groups.append((number[models[of_these]], accuracies[of_these]))
    return table.column()[there], groups


def correlated(
    truth: np.ndarray, groups: list[Group], orders: dict[str, tuple[np.ndarray, bool]]
) -> list[Row]:
    """A row for each order (values, is higher better?): tau is positive where it is right."""
    found = []
    for name, (values, higher) in orders.items():
        each = correlation.Candidate((values if higher else -values)[:, None], True)
        row = correlation.of_candidate(name, each, truth)
        tau = {key: round(row[key], 3) for key in ("tau", "low", "high")}
        within = round(correlation.tau_within(each, groups), 3)
        found.append({"order": name, "models": len(values), **tau, "within recipes": within})
        print(found[-1])
    return found


def of_costs(costs: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, bool]]:
    """The orders by costs, and by sums of ranks."""
    orders = {name: (costs[name], True) for name in (*SIZES, "pool_free")}
    for names in SUMS:
        ranks = ranking.log_rank(np.stack([costs[name] for name in names], 1), (True,) * len(names))
        orders[" + ".join(names) + " (log_rank)"] = (np.asarray(ranks), False)
    return orders


def of_kernels(
    costs: dict[str, np.ndarray], kernels: dict[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, bool]]:
    """The orders by kernel scores, and by `consensus` with and without them."""
    orders = {name: (kernels[name], higher) for name, higher in KERNEL.items()}
    three = np.stack([kernels[name] for name in ("S_t", "S_e", "S_g")], 1)
    orders["NTK-score"] = (np.asarray(ranking.borda(three, (False,) * 3)), False)
    known = costs | kernels
    witnesses = np.stack([known[name] for name in WITNESSES], 1)
    orders["consensus"] = (np.asarray(ranking.anchored(witnesses, HIGHER_IS_BETTER)), False)
    size = np.stack([costs[name] for name in SIZE], 1)
    orders["its size"] = (np.asarray(ranking.log_rank(size, (True,) * len(SIZE))), False)
    return orders


def main(path: Path, folder: Path) -> None:
    """Prints and writes a row for each order."""
    table = read_table(path, sj.make_space("timm"))
    costs = read(folder / "costs.csv")
    names = [table.space.to_string(arch) for arch in table.architectures]
    every = {key: column(costs, names, key) for key in (*SIZES, "pool_free")}
    everyone = among(table, np.ones(len(names), bool))
    write(folder / "correlations.csv", correlated(*everyone, of_costs(every)))
    scored = read(folder / "scores.csv")
    there = np.array([name in scored for name in names])
    names = [name for name in names if name in scored]
    kernels = {key: column(scored, names, key) for key in KERNEL}
    own = {key: values[there] for key, values in every.items()}
    orders = of_kernels(own, kernels) | {k: v for k, v in of_costs(own).items() if k != "volume"}
    write(folder / "kernels.csv", correlated(*among(table, there), orders))


def read(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a file by model."""
    with path.open() as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def column(rows: dict[str, dict[str, str]], names: list[str], key: str) -> np.ndarray:
    """A column of the named rows; what is not known is NaN."""
    return np.array([float(rows[name][key] or "nan") for name in names])


def write(path: Path, rows: list[Row]) -> None:
    """Writes rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
