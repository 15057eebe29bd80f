"""How a search came to its result: what it had found after every evaluation, in a figure.

Two questions are kept apart. What is the best architecture it has scored (the luck of what it
looked at)? And what would it return now (which is the scorer's choice among them)? Both are
answered with true accuracies, which the search itself never sees.

A supernet stands for all its members: the best of them, and their mean.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from saboc_jax import ranking as ranks
from saboc_jax.search import Step, evaluations
from saboc_jax.types import Architecture, Ranking

Accuracy = Callable[[Int[np.ndarray, "n decisions"]], Float[np.ndarray, " n"]]
"""True accuracies of architectures."""


class Point(NamedTuple):
    """Where a search stood.

    Attributes:
        evaluations: candidates scored so far.
        best: the best true accuracy among them.
        found: the true accuracy of what the search would return now; of a supernet, the mean
            over its members. NaN: nothing has a finite score yet.
    """

    evaluations: int
    best: float
    found: float


class Trajectory:
    """Collects points while a search runs; call `update` after every step.

    Args:
        accuracy: true accuracies of architectures.
        higher_is_better: the direction of each metric.
        ranking: how the metrics become one rank.
        most_members: a supernet of more members is not looked into.
    """

    def __init__(
        self,
        accuracy: Accuracy,
        higher_is_better: Sequence[bool],
        ranking: Ranking = ranks.borda,
        most_members: int = 1 << 14,
    ) -> None:
        self.points: list[Point] = []
        self._accuracy = accuracy
        self._directions = tuple(higher_is_better)
        self._ranking = ranking
        self._most_members = most_members
        self._steps = 0
        self._scores: dict[tuple[int, ...], np.ndarray] = {}
        self._truth: list[float] = []

    def update(self, history: list[Step]) -> Point:
        """Takes in the steps it has not seen; gives the last point."""
        seen = evaluations(history[: self._steps])
        for masks, scores in history[self._steps :]:
            # Pieces, so that a large first step is more than one point.
            piece = max(16, seen // 16)
            for start in range(0, len(masks), piece) if is_single(masks) else (0,):
                end = start + piece if is_single(masks) else len(masks)
                seen += len(masks[start:end])
                self.points.append(self._point(seen, masks[start:end], scores[start:end]))
        self._steps = len(history)
        return self.points[-1]

    def finish(self, arch: Architecture) -> None:
        """Takes in the result of a search over supernets: the last supernet has one member."""
        if self.points and not self._scores:
            accuracy = float(self._accuracy(np.asarray(arch)[None])[0])
            self.points.append(Point(self.points[-1].evaluations, accuracy, accuracy))

    def _point(self, seen: int, masks: np.ndarray, scores: np.ndarray) -> Point:
        best = self.points[-1].best if self.points else float("nan")
        if not is_single(masks):
            members = self._members(masks[0])
            if not len(members):
                return Point(seen, best, float("nan"))
            accuracies = self._accuracy(members)
            return Point(seen, float(accuracies.max()), float(accuracies.mean()))
        archs = masks.argmax(-1)
        accuracies = self._accuracy(archs)
        means = scores.mean(1)
        for arch, mean, accuracy in zip(archs, means, accuracies, strict=True):
            key = tuple(int(option) for option in arch)
            if np.isfinite(mean).any() and key not in self._scores:
                self._scores[key] = mean
                self._truth.append(float(accuracy))
        if not self._scores:
            return Point(seen, best, float("nan"))
        order = ranks.best_first(
            np.array(list(self._scores.values())), self._directions, ranking=self._ranking
        )
        return Point(seen, max(self._truth), self._truth[int(order[0])])

    def _members(self, mask: Bool[np.ndarray, "d o"]) -> Int[np.ndarray, "n d"]:
        if mask.sum(1).astype(float).prod() > self._most_members:
            return np.zeros((0, len(mask)), np.int32)
        return np.array(list(itertools.product(*map(np.flatnonzero, mask))), np.int32)


def is_single(masks: Bool[np.ndarray, "b d o"]) -> bool:
    """Are all of them architectures, none a supernet?"""
    return bool((masks.sum(-1) == 1).all())


def trajectory_figure(points: Sequence[Point], accuracies: Any, title: str) -> Figure:
    """True accuracy, and place among all architectures, over evaluations.

    Args:
        points: of `Trajectory`.
        accuracies: [all] true accuracies of the space.
        title: a line above.
    """
    ascending = np.sort(np.asarray(accuracies))
    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    x = [point.evaluations for point in points]
    for label, colour, values in (
        ("best scored", "#0a4f9e", [point.best for point in points]),
        ("would be returned (a supernet: mean)", "#c04f00", [point.found for point in points]),
    ):
        style: dict[str, Any] = {"where": "post", "color": colour, "label": label}
        above.step(x, values, **style)
        below.step(x, [place(value, ascending) for value in values], **style)
    above.axhline(ascending[-1], color="#8a8a8a", linewidth=1, linestyle="--", label="best of all")
    above.set(ylabel="true test accuracy %", title=title)
    above.legend(loc="lower right", frameon=False)
    below.set_yscale("log")
    below.invert_yaxis()
    below.set(xlabel="evaluations", ylabel=f"place among {len(ascending):,}")
    return figure


def place(accuracy: float, ascending: Float[np.ndarray, " all"]) -> float:
    """1 plus the number of strictly better architectures; NaN of NaN."""
    if np.isnan(accuracy):
        return accuracy
    return float(len(ascending) + 1 - np.searchsorted(ascending, accuracy, side="right"))


def front_figure(
    costs: Sequence[float], values: Sequence[float], front: Sequence[bool], labels: tuple[str, str]
) -> Figure:
    """All candidates of a search between two objectives, and its Pareto front.

    Args:
        costs: [n] of the horizontal axis.
        values: [n] of the vertical axis.
        front: [n] which ones are on the front.
        labels: of the axes.
    """
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x, y, on = np.asarray(costs, float), np.asarray(values, float), np.asarray(front, bool)
    axes.scatter(x[~on], y[~on], s=9, color="#b5b5b5", label="scored")
    order = np.argsort(x[on])
    axes.plot(x[on][order], y[on][order], "o-", color="#0a4f9e", markersize=4, label="front")
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.legend(frameon=False)
    return figure
