"""How well training-free scores order DARTS genotypes, by a surrogate's or by trained accuracies.

Two tables: 725 genotypes with the CIFAR-10 accuracies that NAS-Bench-301's SURROGATE predicts (no
training), and 1,000 that SWAP trained. Parameters, multiply-accumulates and depth are of networks
with C=32 and 8 cells. Run again, it goes on where it stopped.

Examples:
  saboc darts_correlations --scorers=ntk_score,naswot,synflow --out=runs/darts
  saboc darts_correlations --table=swap --limit=300 --scorers=swap,ntk_score
"""

from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.benchmarks import tables as benchmarks
from saboc_jax.benchmarks.tables import DartsTable
from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.spaces.darts import costs as darts_costs
from saboc_jax.spaces.darts import genotypes as darts_genotypes
from saboc_jax.statistics import correlation
from saboc_jax.types import Scorer

from .support import common, correlate_report, scoring

SPACE = "darts_genotypes"
LABELS = {
    "surrogate": "accuracy predicted by NAS-Bench-301's surrogate",
    "swap": "validation accuracy as SWAP trained",
}
TABLE = flags.DEFINE_enum("table", "surrogate", sorted(LABELS), "Which genotypes and accuracies.")
LIMIT = flags.DEFINE_integer("limit", None, "So many genotypes, drawn by --arch_seed.", 20)
OUT = flags.DEFINE_string("out", None, "Folder of correlations.json, .csv, .md and figures.")
RESAMPLES = flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples.", 1)


def chosen(table: DartsTable) -> tuple[np.ndarray, np.ndarray]:
    """Returns (rows, architectures [n, 32]) of `--limit` genotypes."""
    archs = np.stack([darts_genotypes.from_genotype(each) for each in table.genotypes()])
    order = np.random.default_rng(scoring.ARCH_SEED.value).permutation(len(archs))
    keep = np.sort(order[: LIMIT.value])
    return keep, archs[keep]


def ordered(
    table: DartsTable, rows: np.ndarray, scorer: Scorer, scores: np.ndarray
) -> correlate_report.Found:
    """Returns all values that order the genotypes: costs, our scores, and published scores."""
    all_ = table.genotypes()
    costs = [darts_costs.cost(all_[row], darts_costs.PUBLISHED) for row in rows]
    found = {
        name: correlation.Candidate(
            np.array([[getattr(cost, name)] for cost in costs], float), True
        )
        for name in ("params", "macs", "depth")
    }
    found |= correlation.candidates(scorer, scores, ("borda", "log_rank"))
    for name in benchmarks.SCORES:
        if name in table.columns:
            published = table.columns[name][rows, None]
            found[f"published {name}"] = correlation.Candidate(published, True)
    return found


def main() -> None:
    """Scores, correlates, shows, writes."""
    common.set_defaults(space=SPACE, channels=4, batch_size=32, repeats=1)
    if common.SPACE.value != SPACE:
        raise ValueError(f"--space={common.SPACE.value}; allowed: {SPACE}, which holds them all")
    console = Console(highlight=False, markup=False)
    load = {"surrogate": benchmarks.load_darts_surrogate, "swap": benchmarks.load_darts_swap}
    table = load[TABLE.value](common.DATA_DIR.value)
    rows, archs = chosen(table)
    truth, label = table.accuracies[rows], LABELS[TABLE.value]
    dataset = common.load_dataset()
    space = common.build_space(dataset)
    scorer = common.build_scorer(scoring.scorer_names(), space)
    scores = scoring.score(console, dataset, space, scorer, archs)
    found = ordered(table, rows, scorer, scores)
    lines = [
        correlation.of_candidate(name, each, truth, resamples=RESAMPLES.value)
        for name, each in found.items()
    ]
    title = (
        f"{len(rows)} of {len(table.accuracies)} genotypes, {label}, scored on {dataset.name} "
        f"({common.network_text()}); low, high: 95 % interval over genotypes"
    )
    console.print(results_table(lines, title=title))
    folder = Path(OUT.value) if OUT.value else None
    won = correlate_report.show_winners(console, folder, dataset.name, found, truth, label)
    if OUT.value:
        lines = [{"accuracy": label, "genotypes": len(rows), **line} for line in lines]
        correlate_report.plot(Path(OUT.value), dataset.name, found, truth, label)
        correlate_report.write(Path(OUT.value), lines)
        correlate_report.write(Path(OUT.value), won, "winners")
        report_html.write(Path(OUT.value))
        console.print(f"Wrote {OUT.value}")


if __name__ == "__main__":
    common.run(
        main,
        many_devices=True,
        unread=(
            "archs",
            "notation",
            "num_archs",
        ),
    )
