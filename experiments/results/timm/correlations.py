"""Tau of costs, and of sums of their ranks, with ImageNet's accuracies of timm's models.

python experiments/results/timm/correlations.py TABLE FOLDER [SCORES]

TABLE: timm_imagenet.csv. FOLDER: of costs.csv, and of what is written. SCORES: single scores that
`saboc correlate --space=timm --out=...` wrote; then only its models count.
"""

import csv
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from saboc_jax.statistics import ranking

LEAST = 10  # rows of a recipe
SIZES = ("params", "macs", "activations", "depth", "longest", "mean", "chain", "volume")
SUMS = (
    ("params", "activations"),
    ("params", "macs"),
    ("macs", "activations"),
    ("params", "macs", "activations"),
    ("params", "activations", "volume"),
    ("params", "chain", "pool_free", "volume"),  # the structure of `consensus`
)
WITNESSES = ("S_g", "jacob_cov", "params", "chain", "pool_free", "volume")
LOWER = ("S_t", "S_e", "S_g")


def number(text: str) -> float:
    """Returns a cell as a number; NaN where there is none."""
    return float(text) if text not in ("", "nan", "None", None) else float("nan")


def read_scores(path: Path) -> dict[str, dict[str, float]]:
    """Returns {model: {metric: value}} of the first repeat."""
    with path.open() as file:
        return {
            row["architecture"]: {
                name.removesuffix(" (repeat 1)").rpartition(".")[2]: number(value)
                for name, value in row.items()
                if name.endswith("(repeat 1)")
            }
            for row in csv.DictReader(file)
        }


def main(table: Path, folder: Path, scores: Path | None) -> None:
    """Prints and writes a row for each order."""
    with (folder / "costs.csv").open() as file:
        costs = {row["model"]: row for row in csv.DictReader(file)}
    extra = read_scores(scores) if scores else {}
    models = [name for name in costs if not scores or name in extra]
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["model"] in models]
    accuracies: dict[str, list[float]] = {}
    recipes: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        accuracy = float(row["imagenet_top1"])
        accuracies.setdefault(row["model"], []).append(accuracy)
        recipes.setdefault(row["recipe"], []).append((models.index(row["model"]), accuracy))
    truth = np.array([np.mean(accuracies[name]) for name in models])
    groups = [
        tuple(map(np.array, zip(*each, strict=True)))
        for each in recipes.values()
        if len(each) >= LEAST
    ]
    columns = {
        name: np.array([number(costs[model].get(name, "")) for model in models])
        for name in (*SIZES, "pool_free")
    }
    known = next(iter(extra.values()), {})
    columns |= {
        name: np.array([extra[model].get(name, np.nan) for model in models])
        for name in ("S_t", "S_e", "S_g", "jacob_cov")
        if name in known
    }
    found: list[dict[str, Any]] = []

    def add(name: str, ranks: np.ndarray) -> None:
        compare = partial(ranking.kendall, higher_is_better=(False, True))
        whole = ranking.bootstrap_interval(compare, ranks, truth, 0, resamples=1000)
        within = [compare(ranks[np.array(own, int)], values) for own, values in groups]
        found.append(
            {
                "order": name,
                "models": len(models),
                "tau": round(-whole.estimate, 3),
                "low": round(-whole.high, 3),
                "high": round(-whole.low, 3),
                "within recipes": round(-float(np.mean(within)), 3) if within else "",
                "recipes": len(within),
            }
        )
        print(found[-1])

    def ranked(names: tuple[str, ...], how: str) -> np.ndarray:
        values = np.stack([columns[name] for name in names], 1)
        up = tuple(name not in LOWER for name in names)
        return np.asarray(ranking.AGGREGATIONS[how](values, up))

    for name, values in columns.items():
        if len(set(values[np.isfinite(values)])) > 1:
            add(name, ranked((name,), "borda"))
    for names in SUMS:
        add(" + ".join(names) + " (log_rank)", ranked(names, "log_rank"))
    if set(WITNESSES) <= set(columns):
        add("consensus", ranked(WITNESSES, "agreement"))
        add("ntk_score (borda)", ranked(("S_t", "S_e", "S_g"), "borda"))
    out = folder / ("correlations.csv" if scores is None else "correlations_scored.csv")
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
