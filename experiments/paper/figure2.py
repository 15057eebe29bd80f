"""Figure 2: S_t, S_e and S_g of every cell against its test accuracy.

Examples:
  saboc paper.figure2 --out=runs/figure2
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from saboc_jax.reports.canvas import blank
from saboc_jax.reports.tables import results_table
from saboc_jax.statistics import correlation

from ..support import common, correlate_report, pictures
from . import correlations

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure

TITLES = {"S_t": "trainability", "S_e": "expressivity", "S_g": "generalisation"}
PAPER = {"S_t": 0.433, "S_e": 0.514, "S_g": 0.513}  # SABoC-NAS, Figure 2 and Table 1


def measure(study: correlations.Study) -> list[dict[str, Any]]:
    """Returns a row for each metric, the paper's tau beside ours."""
    rows = correlation.table(study.scorer, study.scores, study.test, aggregations=())
    return [correlations.beside(row, PAPER.get(row["score"])) for row in rows[:3]]


def draw(study: correlations.Study, rows: list[dict[str, Any]]) -> Figure:
    """Draws three panels with tau above each."""
    figure = blank(11, 3.6)
    panels = figure.subplots(1, 3, sharey=True)
    for index, (panel, row) in enumerate(zip(panels, rows, strict=True)):
        panel.plot(study.scores[..., index].mean(1), study.test, ".", alpha=0.4, markersize=4)
        panel.set(xlabel=f"{row['score']} ({TITLES[row['score']]}), lower is better")
        paper = "" if np.isnan(row["paper"]) else f", paper {row['paper']}"
        tau = f"tau {row['tau']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        panel.set_title(tau + paper, fontsize=9)
    panels[0].set_ylabel("test accuracy %")
    return figure


def main() -> None:
    """Scores, shows, writes, draws."""
    console = Console(highlight=False, markup=False)
    study = correlations.score(console)
    folder = Path(correlations.OUT.value or "runs/figure2")
    rows = measure(study)
    console.print(results_table(rows, title=f"Figure 2. {correlations.caption(study)}"))
    correlate_report.write(folder, rows, "figure2")
    pictures.keep(folder / "figure2.png", lambda: draw(study, rows), dpi=110)
    console.print(f"Wrote {folder}")


if __name__ == "__main__":
    correlations.set_defaults()
    common.run(main, many_devices=True)
