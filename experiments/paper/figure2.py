"""Figure 2: S_t, S_e and S_g of every cell against its test accuracy.

Examples:
  python -m experiments.paper.figure2 --out=runs/figure2
"""

from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from experiments import common
from experiments.paper import correlations
from saboc_jax import correlation

TITLES = {"S_t": "trainability", "S_e": "expressivity", "S_g": "generalisation"}
PAPER = {"S_t": 0.433, "S_e": 0.514, "S_g": 0.513}  # SABoC-NAS, Figure 2 and Table 1


def draw(study: correlations.Study) -> Figure:
    """Three panels, tau above each."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    rows = correlation.table(study.scorer, study.scores, study.test, aggregations=())
    rows = [correlations.beside(row, PAPER.get(row["score"])) for row in rows[:3]]
    for index, (panel, row) in enumerate(zip(panels, rows, strict=True)):
        panel.plot(study.scores[..., index].mean(1), study.test, ".", alpha=0.4, markersize=4)
        panel.set(xlabel=f"{row['score']} ({TITLES[row['score']]}), lower is better")
        panel.set_title(
            f"tau {row['tau']:.3f} [{row['low']:.3f}, {row['high']:.3f}], paper {row['paper']}",
            fontsize=9,
        )
    panels[0].set_ylabel("test accuracy %")
    return figure


def main() -> None:
    """Scores and draws."""
    console = Console(highlight=False)
    study = correlations.score(console)
    folder = Path(correlations.OUT.value or "runs/figure2")
    folder.mkdir(parents=True, exist_ok=True)
    draw(study).savefig(folder / "figure2.png", dpi=110)
    console.print(f"{correlations.caption(study)}\nWrote {folder / 'figure2.png'}")


if __name__ == "__main__":
    correlations.set_defaults()
    common.run(main, many_devices=True)
