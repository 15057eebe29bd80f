"""Scores given or drawn architectures into a store; run again, it goes on where it stopped.

Examples:
  python -m experiments.score --scorers=ntk_score,synflow --num_archs=200
  python -m experiments.score --archs=my_cells.txt --export=scores.csv
"""

from absl import flags
from rich.console import Console

from experiments import common, scoring
from saboc_jax.report import results_table
from saboc_jax.store import Store

EXPORT = flags.DEFINE_string("export", None, "File (.csv or .parquet) to write the store to.")


def main() -> None:
    """Scores, then shows the first rows."""
    console = Console(highlight=False)
    dataset = common.load_dataset()
    space = common.build_space(dataset)
    scorer = common.build_scorer(scoring.scorer_names(), space)
    archs = scoring.architectures(space)
    scores = scoring.score(console, dataset, space, scorer, archs).mean(1)
    rows = [
        {"architecture": space.to_string(arch), **dict(zip(scorer.metrics, row, strict=True))}
        for arch, row in zip(archs[:10], scores[:10].tolist(), strict=True)
    ]
    console.print(results_table(rows, title=f"First {len(rows)} of {len(archs)}"))
    if EXPORT.value:
        with Store(scoring.STORE.value) as store:
            store.export(EXPORT.value)
        console.print(f"Wrote {EXPORT.value}")


if __name__ == "__main__":
    common.run(main, many_devices=True)
