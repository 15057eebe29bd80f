"""Figures of the results of the API's functions; matplotlib is the extra `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from saboc_jax.reports.canvas import blank

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure

BLUE, GREY = "#0a4f9e", "#8a8a8a"
LONGEST = 40  # letters of a label


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def dots(
    names: Sequence[str], values: Float[np.ndarray, "n repeats k"], metrics: Sequence[str]
) -> Figure:
    """Draws every repeat's value of each metric, a line for each candidate, the first above."""
    figure = blank(2.2 + 2.4 * len(metrics), 1.2 + 0.28 * len(names))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    places = np.arange(len(names))
    for column, (metric, panel) in enumerate(zip(metrics, panels, strict=True)):
        for repeat in values[..., column].T:
            panel.plot(repeat, places, ".", color=GREY, alpha=0.6)
        panel.plot(values[..., column].mean(1), places, "o", color=BLUE)
        panel.set_xlabel(metric)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_yticks(places, [_short(name) for name in names])
    panels[0].invert_yaxis()
    return figure


def course(history: Sequence[tuple[Any, Any]], metrics: Sequence[str]) -> Figure:
    """Draws the mean of each metric of every candidate of a search, in the order of scoring."""
    figure = blank(6, 0.6 + 1.6 * len(metrics))
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    means = np.concatenate([np.asarray(scores).mean(1) for _, scores in history])
    for column, (metric, panel) in enumerate(zip(metrics, panels, strict=True)):
        panel.plot(np.arange(1, len(means) + 1), means[:, column], ".", color=BLUE)
        panel.set_ylabel(metric)
    panels[-1].set_xlabel("evaluations")
    panels[-1].locator_params(axis="x", integer=True)
    return figure


def taus(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws Kendall tau of every row with its interval, the largest magnitude above."""
    ordered = sorted(rows, key=lambda row: -abs(row["tau"]))
    figure = blank(6.5, 1.0 + 0.28 * len(ordered))
    panel = figure.subplots()
    for place, row in enumerate(ordered):
        panel.plot([row["low"], row["high"]], [place, place], color=BLUE, alpha=0.5)
        panel.plot(row["tau"], place, "o", color=BLUE)
    panel.set_yticks(range(len(ordered)), [_short(str(row["score"])) for row in ordered])
    panel.axvline(0, color=GREY, linewidth=0.8)
    panel.invert_yaxis()
    panel.set_xlabel("Kendall tau with its interval")
    return figure
