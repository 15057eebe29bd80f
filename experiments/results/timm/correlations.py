"""Tau of costs, and of sums of their ranks, with ImageNet's accuracies of timm's models.

python experiments/results/timm/correlations.py TABLE FOLDER

TABLE: timm_imagenet.csv. FOLDER: of costs.csv, and of what is written.
"""

import csv
import sys
from pathlib import Path

import numpy as np

import saboc_jax as sj
from saboc_jax.benchmarks.accuracies import read_table
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


def main(path: Path, folder: Path) -> None:
    """Prints and writes a row for each order."""
    table = read_table(path, sj.make_space("timm"))
    groups = list(table.groups("recipe").values())
    with (folder / "costs.csv").open() as file:
        costs = {row["model"]: row for row in csv.DictReader(file)}
    models = [costs[table.space.to_string(arch)] for arch in table.architectures]

    def column(name: str) -> np.ndarray:
        return np.array([float(model[name] or "nan") for model in models])

    orders = {name: column(name) for name in (*SIZES, "pool_free")}
    for names in SUMS:
        values = np.stack([orders[name] for name in names], 1)
        ranks = np.asarray(ranking.log_rank(values, (True,) * len(names)))
        orders[" + ".join(names) + " (log_rank)"] = -ranks
    found = []
    for name, values in orders.items():
        each = correlation.Candidate(values[:, None], True)
        row = correlation.of_candidate(name, each, table.column())
        tau = {key: round(row[key], 3) for key in ("tau", "low", "high")}
        within = round(correlation.tau_within(each, groups), 3)
        found.append({"order": name, "models": len(models), **tau, "within recipes": within})
        print(found[-1])
    with (folder / "correlations.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
