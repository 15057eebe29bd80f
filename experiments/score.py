"""Scores given or drawn architectures into a store; run again, it goes on where it stopped.

The architectures are shown and kept best first, by the Borda count of the first scorer's metrics
or the aggregation that it brings; the others stand beside it. Several vote as one:
ntk_score+naswot.

Examples:
  saboc score --scorers=ntk_score,synflow --num_archs=200
  saboc score --archs=my_cells.txt --export=scores.csv --out=runs/my_cells
  saboc score --archs=naslib.txt --notation=naslib
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console

from saboc_jax.benchmarks.accuracies import AccuracyTable
from saboc_jax.evaluation.store import Store
from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.scorers.variants import what_ranks
from saboc_jax.statistics import ranking
from saboc_jax.types import Scorer, SearchSpace

from .support import common, correlate_report, scoring, table_archs, tables

EXPORT = flags.DEFINE_string("export", None, "File (.csv or .parquet) to write the store to.")
OUT = flags.DEFINE_string(
    "out", None, "Folder for the ranked scores as JSON, CSV and Markdown, and report.html."
)


def ranked(
    space: SearchSpace, scorer: Scorer, archs: np.ndarray, scores: np.ndarray
) -> list[dict[str, Any]]:
    """A row for each architecture, the best first by the first scorer's own aggregation, or Borda.

    Args:
        space: the space of the architectures.
        scorer: one, or several combined.
        archs: [n, decisions].
        scores: [n, repeats, k], NaN where bad.
    """
    means, repeats = scores.mean(1), scores.shape[1]
    first = scorer.votes
    first_metrics, better = means[:, :first], scorer.higher_is_better[:first]
    own = scorer.ranking or "borda"
    how = ranking.AGGREGATIONS[own]
    rank = how(first_metrics, better)
    rows = []
    for index in ranking.best_first(first_metrics, better, ranking=how):
        row = {own: float(rank[index]), "architecture": space.to_string(archs[index])}
        row |= dict(zip(scorer.metrics, means[index].tolist(), strict=True))
        if repeats > 1:
            errors = ranking.standard_error(scores[index])
            names = (f"standard error of {name}" for name in scorer.metrics)
            row |= dict(zip(names, errors.tolist(), strict=True))
        rows.append(row | space.cost(archs[index])._asdict())
    return rows


def with_table(
    space: SearchSpace, table: AccuracyTable | None, rows: list[dict[str, Any]]
) -> tuple[str, ...]:
    """Adds the main accuracy of a table to rows, or all its columns; gives their names."""
    if table is None:
        return ()
    archs = [space.from_string(row["architecture"]) for row in rows]
    names = (table.main,) if table.main else tuple(table.columns)
    for name in names:
        for row, value in zip(rows, table.values(archs, name).tolist(), strict=True):
            row[name] = value
    return names


def main() -> None:
    """Scores, then shows the best."""
    console = Console(highlight=False, markup=False)
    dataset = common.load_dataset()
    space = common.build_space(dataset)
    scorer = common.build_scorer(scoring.scorer_names(), space)
    table = tables.given(space, console) if tables.TABLE.value else None
    archs = table_archs.of_table(table) if table else scoring.architectures(space)
    rows = ranked(space, scorer, archs, scoring.score(console, dataset, space, scorer, archs))
    known = with_table(space, table, rows)
    names = (*list(rows[0])[:2], *scorer.metrics, *known)
    shown = [{name: row[name] for name in names} for row in rows[:10]]
    title = f"Best {len(shown)} of {len(rows)}. {what_ranks(scorer, scorer.ranking or 'borda')}"
    console.print(results_table(shown, title=title))
    if OUT.value:
        correlate_report.write(Path(OUT.value), rows, "scores")
        console.print(f"Wrote {report_html.write(Path(OUT.value))}")
    if EXPORT.value:
        with Store(scoring.STORE.value) as store:
            store.export(EXPORT.value)
        console.print(f"Wrote {EXPORT.value}")


if __name__ == "__main__":
    common.run(main, many_devices=True)
