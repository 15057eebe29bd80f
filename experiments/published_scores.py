"""Our Spearman correlations beside those of NAS-Bench-Suite-Zero's published scores.

On the 725 cells of each dataset whose scores were published (one network each, batch of 32,
PyTorch's initialisation, C=16, N=5), with the validation accuracy published beside them. Our
network is smaller by default.

Examples:
  saboc published_scores --datasets=cifar10 --out=runs/published
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax import progress
from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.evaluation.store import Store
from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.statistics import ranking

from .support import common, correlate_report, scoring

NAMES = {  # ours: theirs
    "synflow": "synflow",
    "naswot": "nwot",
    "snip": "snip",
    "grad_norm": "grad_norm",
    "grasp": "grasp",
    "fisher": "fisher",
    "jacob_cov": "jacov",
    "params": "params",
    "macs": "flops",
}
DATASETS = flags.DEFINE_list("datasets", list(benchmarks.DATASETS), "Datasets, by commas.")
LIMIT = flags.DEFINE_integer("limit", None, "Only the first so many cells.", 2)
OUT = flags.DEFINE_string("out", None, "Folder for published.json, .csv and .md.")


def compare(console: Console, name: str) -> list[dict[str, Any]]:
    """Rows of one dataset: Spearman rho with validation accuracy, ours and theirs, and of both."""
    published = benchmarks.load_published_scores(common.DATA_DIR.value).of(name)
    images = name if name != "imagenet16_120" else "imagenet16_120_standin"
    dataset = common.load_dataset(images)
    space = common.build_space(dataset)
    scorer = common.build_scorer(list(NAMES), space)
    archs = published.architectures[: LIMIT.value]
    truth = published.columns["val_accuracy"][: LIMIT.value]
    masks = architecture_to_mask(archs, max(space.choices))
    total = len(archs) * common.REPEATS.value
    with Store(scoring.STORE.value) as store, progress.bar(images, total, console) as bar:
        evaluator = common.build_evaluator(dataset, space, scorer, store, bar.advance)
        ours = evaluator.evaluate(masks).mean(1)
    rows = []
    for index, (mine, theirs) in enumerate(NAMES.items()):
        other = published.columns[theirs][: LIMIT.value]
        row: dict[str, Any] = {
            "dataset": name,
            "images": images,
            "score": mine,
            "rho ours": ranking.spearman(ours[:, index], truth),
            "rho published": ranking.spearman(other, truth),
            "rho between": ranking.spearman(ours[:, index], other),
            "not finite": int((~np.isfinite(ours[:, index])).sum()),
        }
        rows.append(row | {"difference": row["rho ours"] - row["rho published"]})
    return rows


def main() -> None:
    """Compares on every dataset, shows, writes."""
    console = Console(highlight=False, markup=False)
    rows = []
    for name in DATASETS.value:
        rows += compare(console, name)
        if OUT.value:
            correlate_report.write(Path(OUT.value), rows, "published")
            report_html.write(Path(OUT.value))
    title = f"Spearman rho with validation accuracy; ours: {common.network_text()}"
    console.print(results_table(rows, title=title))


if __name__ == "__main__":
    common.set_defaults(batch_size=32, repeats=1, init="torch_default", channels=8)
    common.run(
        main,
        many_devices=True,
        unread=(
            "arch_seed",
            "archs",
            "notation",
            "num_archs",
            "scorers",
        ),
    )
