"""What correlation studies keep: tables as JSON, CSV and Markdown, scatter plots, tau matrices."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from saboc_jax.files import as_cells, write_json
from saboc_jax.reports.canvas import blank
from saboc_jax.reports.rows import to_markdown
from saboc_jax.reports.tables import results_table
from saboc_jax.statistics import correlation
from saboc_jax.statistics.winners import Winner, best_by_chance
from saboc_jax.types import Scorer

from . import pictures, workdir

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure

Found = Mapping[str, correlation.Candidate]
MOST_CURVES = 12  # of one picture; a table holds all


def scatter(found: Found, truth: np.ndarray, label: str) -> Figure:
    """Every score (mean over repeats) against true accuracy."""
    width = min(3, len(found))
    height = -(-len(found) // width)
    figure = blank(3.2 * width, 2.6 * height)
    panels = figure.subplots(height, width, squeeze=False).flat
    for (name, each), panel in zip(found.items(), panels, strict=False):
        panel.plot(each.values.mean(1), truth, ".", alpha=0.4, markersize=3)
        panel.set_xlabel(name, fontsize=8)
        panel.tick_params(labelsize=7)
    for panel in list(panels):
        panel.set_axis_off()
    figure.supylabel(label)
    return figure


def heatmap(names: list[str], matrix: np.ndarray) -> Figure:
    """Kendall tau between scores as a picture."""
    size = 2.5 + 0.28 * len(names)
    figure = blank(size + 0.8, size)
    panel = figure.subplots()
    image = panel.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
    panel.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    panel.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(image, label="Kendall tau (higher is better for all)", shrink=0.7)
    return figure


def winners_figure(curves: Mapping[str, list[Winner]], truth: np.ndarray, label: str) -> Figure:
    """Expected accuracy of the best of m over m, with its interval; grey: the truly best of m."""
    figure = blank(8, 5)
    panel = figure.subplots()
    for name, curve in list(curves.items())[:MOST_CURVES]:
        m, expected, low, high = zip(*curve, strict=True)
        (line,) = panel.plot(m, expected, ".-", label=name, linewidth=1.2)
        panel.fill_between(m, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    sizes = [point.m for point in next(iter(curves.values()))]
    chance = [best_by_chance(truth, m) for m in sizes]
    panel.plot(sizes, chance, "--", color="#8a8a8a", label="truly best of m")
    panel.set_xscale("log")
    panel.set(xlabel="m, random candidates that are scored", ylabel=f"first by the score: {label}")
    panel.legend(fontsize=7, frameon=False)
    return figure


def show_winners(
    console: Console, folder: Path | None, dataset: str, found: Found, truth: np.ndarray, label: str
) -> list[dict[str, Any]]:
    """Prints the winner's curve of every score, and draws it; gives its points as rows.

    Args:
        console: to print on.
        folder: where the picture is kept; None: it is not drawn.
        dataset: names the picture.
        found: the scores.
        truth: [n] accuracies.
        label: what the accuracies are.
    """
    curves = {name: correlation.winners_curve(each, truth) for name, each in found.items()}
    shown = [
        {"score": name} | {f"of {point.m}": point.expected for point in curve}
        for name, curve in curves.items()
    ]
    sizes = [point.m for point in next(iter(curves.values()))]
    shown.append({"score": "truly best"} | {f"of {m}": best_by_chance(truth, m) for m in sizes})
    title = f"Expected {label} of the candidate that a score puts first among m random ones"
    console.print(results_table(shown, title=title))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        draw = functools.partial(winners_figure, curves, truth, label)
        pictures.keep(folder / f"winners-{dataset}.png", draw, dpi=100)
    return [{"score": name} | p._asdict() for name, curve in curves.items() for p in curve]


def plot(folder: Path, dataset: str, found: Found, truth: np.ndarray, label: str) -> None:
    """Draws the scatter plots, and tau between scores as picture and CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"scatter-{dataset}.png"
    pictures.keep(path, lambda: scatter(found, truth, label), dpi=100)
    if len(found) > 1:
        names, matrix = correlation.tau_matrix(found)
        path = folder / f"tau_matrix-{dataset}.png"
        pictures.keep(path, lambda: heatmap(names, matrix), dpi=90)
        lines = [
            [name, *(f"{v:.4f}" for v in row)] for name, row in zip(names, matrix, strict=True)
        ]
        write_csv(folder / f"tau_matrix-{dataset}.csv", [["", *names], *lines])


def write_scores(
    path: Path, texts: Sequence[str], scorer: Scorer, scores: np.ndarray, truth: np.ndarray
) -> None:
    """Keeps what was correlated as CSV: a line for each architecture, with every repeat.

    Args:
        path: the file.
        texts: the architectures.
        scorer: names the metrics.
        scores: [n, repeats, k], NaN where bad.
        truth: [n] accuracies.
    """
    repeats = range(1, scores.shape[1] + 1)
    names = [f"{metric} (repeat {repeat})" for repeat in repeats for metric in scorer.metrics]
    values = np.concatenate([truth[:, None], scores.reshape(len(scores), -1)], 1)
    lines = [
        [text, *(f"{value:.7g}" for value in row)] for text, row in zip(texts, values, strict=True)
    ]
    write_csv(path, [["architecture", "accuracy", *names], *lines])


def write_csv(path: Path, lines: list[list[str]]) -> None:
    """Writes lines of texts."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(map(as_cells, lines))


def write(folder: Path, rows: list[dict[str, Any]], name: str = "correlations") -> None:
    """Keeps rows as NAME.json (with flags, versions, device), NAME.csv and NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    record = workdir.run_record("out", "store")
    write_json(folder / f"{name}.json", {**record, "rows": rows})
    names = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(key, "") for key in names] for row in rows]
    lines = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row] for row in cells]
    write_csv(folder / f"{name}.csv", [names, *lines])
    (folder / f"{name}.md").write_text(to_markdown(rows), encoding="utf-8")
