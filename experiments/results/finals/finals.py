"""Finals by look-up: of m random cells the k best by a score are trained for 12 epochs.

Reads the scores of `experiments/results/consensus/other_cells` and the 12-epoch accuracies of
NAS-Bench-201's table, and writes finals.csv beside itself.

python experiments/results/finals/finals.py
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from saboc_jax.benchmarks.tables import DATASETS, load_nas_bench_201
from saboc_jax.scorers.consensus import HIGHER_IS_BETTER, WITNESSES
from saboc_jax.spaces import make_space
from saboc_jax.statistics import ranking

FOLDER = Path(__file__).parent
SCORES = FOLDER.parent / "consensus" / "other_cells" / "scores-cifar10.csv"
SIZES, FINALISTS, DRAWS = (57, 256, 512, 1024), (1, 8, 16, 32), 200

Ranker = Callable[[np.ndarray], np.ndarray]


def columns(rows: list[dict[str, str]], names: list[str]) -> np.ndarray:
    """Scores [n, k] of the only draw."""
    return np.array([[float(row[f"{name} (repeat 1)"]) for name in names] for row in rows])


def rankers(rows: list[dict[str, str]]) -> dict[str, Ranker]:
    """What ranks cells (their numbers -> ranks among them, lower is better)."""
    # The kept scores are of the first definition, which had no MACs and activations among its own.
    names = [f"consensus.{name}" for name in WITNESSES]
    names = [each if f"{each} (repeat 1)" in rows[0] else each.split(".")[1] for each in names]
    witnesses = columns(rows, names)
    kernel = columns(rows, [f"ntk_score.{name}" for name in ("S_t", "S_e", "S_g")])
    chance = np.random.default_rng(1)
    borda = (False, False, False)
    params = WITNESSES.index("params")
    return {
        "consensus": lambda at: ranking.anchored(witnesses[at], HIGHER_IS_BETTER),
        "S_g": lambda at: ranking.borda(kernel[at, 2:], borda[:1]),
        "NTK-score": lambda at: ranking.borda(kernel[at], borda),
        "parameters": lambda at: ranking.borda(witnesses[at, params, None], (True,)),
        "random": lambda at: chance.random(len(at)),
    }


def winners(rank: np.ndarray, short: np.ndarray, k: int) -> tuple[int, int]:
    """The first of k finalists by 12 epochs alone, and by both ranks (as logarithms are added)."""
    best = ranking.order(rank)[:k]
    both = ranking.log_rank(np.stack([-rank[best], short[best]], 1), (True, True))
    return int(best[np.argmax(short[best])]), int(best[np.argmin(both)])


def grid(rows: list[dict[str, str]]) -> Iterator[dict[str, str | int | float]]:
    """A row for each score, m and k: mean true accuracies of what the finals choose."""
    space, table = make_space("nas_bench_201"), load_nas_bench_201()
    archs = np.stack([space.from_string(row["architecture"]) for row in rows])
    truth = np.stack([table.accuracy(name, archs) for name in DATASETS], 1)
    short = table.accuracy("cifar10", archs, "12ep")
    for name, ranker in rankers(rows).items():
        for m in SIZES:
            rng = np.random.default_rng(0)  # the same cells for every score
            draws = [rng.permutation(len(rows))[:m] for _ in range(DRAWS)]
            ranks = [np.asarray(ranker(at)) for at in draws]
            for k in FINALISTS:
                won = [
                    [at[place] for place in winners(rank, short[at], k)]
                    for at, rank in zip(draws, ranks, strict=True)
                ]
                for how, chosen in zip(("12 epochs", "both"), np.array(won).T, strict=True):
                    means = dict(zip(DATASETS, truth[chosen].mean(0).round(3), strict=True))
                    yield {"before": name, "m": m, "k": k, "final by": how, **means}


def main() -> None:
    """Writes finals.csv."""
    with SCORES.open() as file:
        found = list(grid(list(csv.DictReader(file))))
    with (FOLDER / "finals.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
