"""Table 2: Kendall tau of S_t with test accuracy by batch size n.

Examples:
  saboc paper.table2 --out=runs/table2
  saboc paper.table2 --sizes=16,64 --num_archs=256
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from saboc_jax.reports import html as report_html
from saboc_jax.reports.tables import results_table
from saboc_jax.statistics import correlation

from ..support import common, correlate_report
from . import correlations

PAPER = {16: 0.324, 32: 0.401, 64: 0.433, 96: 0.459, 128: 0.477}  # SABoC-NAS, Table 2
SIZES = flags.DEFINE_list("sizes", ["16", "32", "64", "96", "128"], "Batch sizes, by commas.")


def main() -> None:
    """Scores at every batch size, correlates, shows, writes."""
    console = Console(highlight=False, markup=False)
    if not all(text.isdigit() and int(text) > 1 for text in SIZES.value):
        raise ValueError(f"--sizes={SIZES.value}; allowed: whole numbers above 1, by commas")
    rows = []
    for size in map(int, SIZES.value):
        study = correlations.score(console, size)
        (row,) = correlation.table(study.scorer, study.scores, study.test)
        rows.append({"n": size, **correlations.beside(row, PAPER.get(size))})
    console.print(results_table(rows, title=f"Table 2. {correlations.caption(study)}"))
    if correlations.OUT.value:
        correlate_report.write(Path(correlations.OUT.value), rows, "table2")
        report_html.write(Path(correlations.OUT.value))


if __name__ == "__main__":
    correlations.set_defaults("trainability")
    common.run(main, many_devices=True)
