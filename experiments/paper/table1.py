"""Table 1: Kendall tau of S_t, S_e, S_g and of their Borda counts with test accuracy.

The paper does not say which scoring network it used; this one has C=4, N=1 by default.

Examples:
  saboc paper.table1 --out=runs/table1
  saboc paper.table1 --quick
"""

from pathlib import Path

from rich.console import Console

from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.statistics import correlation

from ..support import common, correlate_report
from . import correlations
from .published import TABLE_1


def main() -> None:
    """Scores, correlates, shows, writes."""
    console = Console(highlight=False, markup=False)
    study = correlations.score(console)
    table = correlation.table(study.scorer, study.scores, study.test)
    # Test decision D1: would Borda order better if a higher S_t counted as better?
    flipped = correlation.aggregated(study.scores, (True, False, False))
    table.append(correlation.statistics("borda, higher S_t better", flipped, study.test, False))
    rows = [correlations.beside(row, TABLE_1.get(row["score"])) for row in table]
    console.print(results_table(rows, title=f"Table 1. {correlations.caption(study)}"))
    if correlations.OUT.value:
        correlate_report.write(Path(correlations.OUT.value), rows, "table1")
        report_html.write(Path(correlations.OUT.value))


if __name__ == "__main__":
    correlations.set_defaults()
    common.run(main, many_devices=True)
