"""How well training-free scores order architectures by their true accuracy.

Signed Kendall tau and Spearman rho of every metric and of every aggregation, with bootstrap
intervals over architectures and the spread over repeats (each its own weights and images).

Examples:
  python -m experiments.correlate --dataset=cifar100 --num_archs=200
  python -m experiments.correlate --scorers=all --target=val --out=runs/all
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from rich.console import Console

from experiments import common, scoring
from saboc_jax import benchmarks, ranking
from saboc_jax.report import results_table
from saboc_jax.types import Scorer

TARGET = flags.DEFINE_enum("target", "test", benchmarks.TARGETS, "Which true accuracy.")
TRAINED_ON = flags.DEFINE_enum(
    "trained_on",
    None,
    benchmarks.DATASETS,
    "Accuracies on which dataset; default: that of --dataset.",
)
OUT = flags.DEFINE_string("out", None, "Folder for correlations.json, .csv, .md and scatter.png.")
RESAMPLES = flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples.", 1)


def statistics(name: str, values: np.ndarray, truth: np.ndarray, higher: bool) -> dict[str, Any]:
    """One row: tau with its interval and spread over repeats, rho, regret."""
    directions = (higher, True)
    mean = values.mean(1)

    def tau(x: np.ndarray, y: np.ndarray) -> float:
        return ranking.kendall(x, y, directions)

    interval = ranking.bootstrap_interval(tau, mean, truth, 0, resamples=RESAMPLES.value)
    repeats = [tau(values[:, repeat], truth) for repeat in range(values.shape[1])]
    ranks = ranking.per_metric_ranks(mean[:, None], (higher,))[:, 0]
    top = max(1, len(truth) // 20)
    return {
        "score": name,
        "better": "higher" if higher else "lower",
        "tau": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "tau of one repeat": float(np.mean(repeats)),
        "sd": float(np.std(repeats, ddof=1)) if len(repeats) > 1 else float("nan"),
        "rho": ranking.spearman(mean, truth, directions),
        "bad": int((~np.isfinite(mean)).sum()),
        "regret@5%": ranking.regret_at_k(ranks, truth, top),
    }


def aggregated(scorer: Scorer, scores: np.ndarray, columns: list[int]) -> np.ndarray:
    """Borda of some metrics, [n, repeats], each repeat ranked by itself."""
    directions = [scorer.higher_is_better[i] for i in columns]
    return np.stack(
        [ranking.borda(scores[:, r, columns], directions) for r in range(scores.shape[1])], 1
    )


def table(scorer: Scorer, scores: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """Rows for every metric, and for Borda over all subsets of the NTK-score."""
    rows = [
        statistics(name, scores[..., i], truth, scorer.higher_is_better[i])
        for i, name in enumerate(scorer.metrics)
    ]
    parts = [
        i for i, name in enumerate(scorer.metrics) if name.split(".")[-1] in ("S_t", "S_e", "S_g")
    ]
    for size in range(2, len(parts) + 1):
        for subset in itertools.combinations(parts, size):
            name = "borda " + "&".join(scorer.metrics[i].split(".")[-1] for i in subset)
            rows.append(statistics(name, aggregated(scorer, scores, list(subset)), truth, False))
    return rows


def scatter(scorer: Scorer, scores: np.ndarray, truth: np.ndarray, label: str) -> Figure:
    """Every metric against true accuracy."""
    width = min(4, len(scorer.metrics))
    height = -(-len(scorer.metrics) // width)
    figure = Figure(figsize=(4 * width, 3.2 * height), layout="constrained")
    panels = figure.subplots(height, width, squeeze=False).flat
    for index, (panel, name) in enumerate(zip(panels, scorer.metrics, strict=False)):
        panel.plot(scores[..., index].mean(1), truth, ".", alpha=0.5)
        panel.set(xlabel=name, ylabel=label)
    return figure


def write(folder: Path, rows: list[dict[str, Any]], figure: Figure) -> None:
    """Keeps the table as JSON, CSV and Markdown, and the scatter plots."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = common.flag_values("out", "store")
    common.write_json(
        folder / "correlations.json", {"settings": settings, **common.environment(), "rows": rows}
    )
    names = list(rows[0])
    lines = [
        names,
        *[[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows],
    ]
    (folder / "correlations.csv").write_text("\n".join(",".join(line) for line in lines) + "\n")
    marks = [lines[0], ["---"] * len(names), *lines[1:]]
    text = "\n".join("| " + " | ".join(line) + " |" for line in marks) + "\n"
    (folder / "correlations.md").write_text(text)
    figure.savefig(folder / "scatter.png", dpi=110)


def main() -> None:
    """Scores, correlates, shows, writes."""
    console = Console(highlight=False)
    dataset = common.load_dataset()
    trained_on = TRAINED_ON.value or dataset.name.removesuffix("_standin")
    accuracies = benchmarks.load_nas_bench_201(common.DATA_DIR.value)
    accuracies.column(trained_on, TARGET.value)
    space = common.build_space(dataset)
    scorer = common.build_scorer(scoring.scorer_names(), space)
    archs = scoring.architectures(space)
    truth = np.asarray(accuracies.accuracy(trained_on, archs, TARGET.value))
    scores = scoring.score(console, dataset, space, scorer, archs)
    rows = table(scorer, scores, truth)
    label = f"{trained_on} {TARGET.value} accuracy"
    console.print(
        results_table(
            rows,
            title=f"{len(archs)} cells, {label}, scored on {dataset.name} (C="
            f"{common.CHANNELS.value}, N={common.CELLS.value}, n={common.BATCH_SIZE.value}, "
            f"{common.REPEATS.value} repeats); low, high: 95 % interval over cells; sd: repeats",
        )
    )
    if OUT.value:
        write(Path(OUT.value), rows, scatter(scorer, scores, truth, label))
        console.print(f"Wrote {OUT.value}")


if __name__ == "__main__":
    common.run(main)
