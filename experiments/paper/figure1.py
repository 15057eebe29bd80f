"""Figure 1: tau with test accuracy against tau with training accuracy, for every score.

The paper's second axis is training accuracy after 100 of 200 epochs, which only tables made from
official NATS-Bench files hold (`saboc import_nats_bench`); with another table it is the final
training accuracy. The axis and the kept rows say which.

Examples:
  saboc paper.figure1 --out=runs/figure1
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from saboc_jax.reports import html as report_html
from saboc_jax.reports.canvas import blank
from saboc_jax.reports.tables import results_table
from saboc_jax.statistics import correlation

from ..support import common, correlate_report, pictures
from . import correlations

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure

# SABoC-NAS, Section 5.2: (with test accuracy, with 100-epoch training accuracy).
PAPER = {"ntk_score borda": (0.532, 0.509), "zen": (None, 0.551), "te_nas.kappa": (0.397, None)}


def draw(rows: list[dict], label: str) -> Figure:
    """Draws one labelled point for each score."""
    figure = blank(7.5, 6)
    panel = figure.subplots()
    for row in rows:
        ours = "ntk_score" in row["score"] and "borda" in row["score"]
        panel.plot(row["test"], row["train"], "*" if ours else ".", color="C3" if ours else "C0")
        panel.annotate(row["score"], (row["test"], row["train"]), fontsize=6)
    panel.set(xlabel="Kendall tau, test accuracy", ylabel=f"Kendall tau, {label}")
    return figure


def main() -> None:
    """Scores, correlates twice, shows, draws."""
    console = Console(highlight=False, markup=False)
    study = correlations.score(console)
    found = correlation.candidates(study.scorer, study.scores, ("borda", "log_rank"))
    rows = []
    for name, each in found.items():
        paper = PAPER.get(name, (None, None))
        test, train = (
            correlations.beside(correlation.of_candidate(name, each, truth), known)
            for truth, known in ((study.test, paper[0]), (study.train, paper[1]))
        )
        sides = {"test": test, "train": train}
        rows.append(
            {"score": name, "trained": study.train_label}
            | {side: value["tau"] for side, value in sides.items()}
            | {f"{side} {k}": v[k] for side, v in sides.items() for k in ("low", "high", "paper")}
        )
    rows.sort(key=lambda row: -row["test"])
    console.print(results_table(rows, title=f"Figure 1. {correlations.caption(study)}"))
    console.print(f"train: {study.train_label}")
    if correlations.OUT.value:
        correlate_report.write(Path(correlations.OUT.value), rows, "figure1")
        path = Path(correlations.OUT.value) / "figure1.png"
        pictures.keep(path, lambda: draw(rows, study.train_label), dpi=110)
        report_html.write(Path(correlations.OUT.value))


if __name__ == "__main__":
    correlations.set_defaults("all")
    common.run(main, many_devices=True)
