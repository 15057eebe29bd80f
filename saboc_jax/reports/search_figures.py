"""Figures of a search: its trajectory and its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from saboc_jax.reports.canvas import blank
from saboc_jax.searching.trajectory import Point, Trajectory

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.figure import Figure


def trajectory_figure(points: Sequence[Point], accuracies: Any, title: str) -> Figure:
    """Draws true accuracy, and place among all architectures, over evaluations.

    Args:
        points: points of a `Trajectory`.
        accuracies: [all] true accuracies of the space.
        title: a line above the figure.
    """
    ascending = np.sort(np.asarray(accuracies))
    figure = blank(7, 6)
    above, below = figure.subplots(2, 1, sharex=True)
    x = [point.evaluations for point in points]
    for label, colour, values in (
        ("best scored", "#0a4f9e", [point.best for point in points]),
        ("would be returned (a supernet: mean)", "#c04f00", [point.found for point in points]),
    ):
        style = {"where": "post", "color": colour, "label": label, **_marks(points)}
        above.step(x, values, **style)
        below.step(x, [place(value, ascending) for value in values], **style)
    above.axhline(ascending[-1], color="#8a8a8a", linewidth=1, linestyle="--", label="best of all")
    above.set(ylabel="true test accuracy %", title=title)
    above.legend(loc="lower right", frameon=False)
    below.set_yscale("log")
    below.invert_yaxis()
    below.locator_params(axis="x", integer=True)
    below.set(xlabel="evaluations", ylabel=f"place among {len(ascending):,}")
    return figure


def _marks(points: Sequence[Point]) -> dict[str, Any]:
    """Returns the marker style: points are marked only if there are few."""
    return {"marker": "o", "markersize": 4} if len(points) <= 20 else {}


def place(accuracy: float, ascending: Float[np.ndarray, " all"]) -> float:
    """Returns 1 plus the number of strictly better architectures; NaN for NaN."""
    if np.isnan(accuracy):
        return accuracy
    return float(len(ascending) + 1 - np.searchsorted(ascending, accuracy, side="right"))


def progress_figure(trajectory: Trajectory, title: str) -> Figure:
    """Draws places by rank, or the members left in a supernet; needs no true accuracies.

    Args:
        trajectory: trajectory of a finished search.
        title: a line above the figure.
    """
    figure = blank(7, 3.6)
    axes = figure.add_subplot()
    x = [point.evaluations for point in trajectory.points]
    best, places = trajectory.places()
    style: dict[str, Any] = {"where": "post", **_marks(trajectory.points)}
    if np.isfinite(places).any():
        axes.step(x, best, color="#0a4f9e", label="best scored", **style)
        axes.step(x, places, color="#c04f00", label="would be returned", linestyle="--", **style)
        axes.set(ylabel="place by rank, among all at the end")
        axes.invert_yaxis()
        axes.legend(loc="lower right", frameon=False)
    else:
        members = [float(point.members) for point in trajectory.points]
        axes.step(x, members, color="#c04f00", **style)
        axes.set(ylabel="architectures that the supernet holds")
    axes.set_yscale("log")
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="evaluations", title=title)
    return figure


def front_figure(
    costs: Sequence[float], values: Sequence[float], front: Sequence[bool], labels: tuple[str, str]
) -> Figure:
    """Draws all candidates of a search with two objectives, and its Pareto front.

    Args:
        costs: [n] values on the horizontal axis.
        values: [n] values on the vertical axis.
        front: [n] whether a candidate is on the front.
        labels: labels of the axes.
    """
    figure = blank(6, 4.5)
    axes = figure.add_subplot()
    x, y, on = np.asarray(costs, float), np.asarray(values, float), np.asarray(front, bool)
    axes.scatter(x[~on], y[~on], s=9, color="#b5b5b5", label="scored")
    order = np.argsort(x[on])
    axes.plot(x[on][order], y[on][order], "o-", color="#0a4f9e", markersize=4, label="front")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.legend(frameon=False)
    return figure
