"""The trajectory of a search: what it had found after every evaluation.

It answers two questions. What is the best architecture that the search has scored (the luck of
sampling)? And what would the search return now (the scorer's choice among the scored)? Both
answers use true accuracies, if known, which the search itself never sees, and the rank among the
scored architectures.

A supernet stands for all its members: the best of them, and their mean.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saboc_jax.searching.result import Step, evaluations
from saboc_jax.statistics import ranking as ranks
from saboc_jax.types import Architecture, Ranking

Accuracy = Callable[[Int[np.ndarray, "n decisions"]], Float[np.ndarray, " n"]]
"""True accuracies of architectures."""
Costs = Callable[[Bool[np.ndarray, "b d o"]], Float[np.ndarray, "b m"]]
"""Costs that a multi-objective searcher is told after the scores."""
Key = tuple[int, ...]
"""A hashable architecture."""


class Point(NamedTuple):
    """The state of a search after some evaluations.

    Attributes:
        evaluations: candidates scored so far.
        best: best true accuracy among them; for a supernet, among its members. NaN: unknown.
        found: true accuracy of the architecture that the search would return now; for a
            supernet, the mean over its members. NaN: unknown, or no finite score yet.
        position: place of that architecture by rank among the distinct architectures scored so
            far, 1 is best; NaN for a supernet.
        members: number of architectures still possible: 1, or the members of the supernet.
    """

    evaluations: int
    best: float
    found: float
    position: float
    members: int


class Trajectory:
    """Collects points while a search runs; call `update` after every step.

    Args:
        accuracy: true accuracies of architectures; None: unknown.
        higher_is_better: the direction of each metric, then of each cost.
        ranking: how the metrics become one rank.
        most_members: the members of a larger supernet are not looked up.
        costs: costs told to the searcher after the metrics, see `run_search`; None: none.

    Attributes:
        points: one point after every step, and some within a long step.
        returned: what the search would have returned at each point; None: nothing, or a supernet.
    """

    def __init__(
        self,
        accuracy: Accuracy | None,
        higher_is_better: Sequence[bool],
        ranking: Ranking = ranks.borda,
        most_members: int = 1 << 14,
        costs: Costs | None = None,
    ) -> None:
        self.points: list[Point] = []
        self.returned: list[Key | None] = []
        self._accuracy = accuracy
        self._directions = tuple(higher_is_better)
        self._ranking = ranking
        self._most_members = most_members
        self._costs = costs
        self._votes = len(self._directions) - bool(costs)
        self._steps = 0
        self._row: dict[Key, int] = {}  # row of each architecture, in scoring order
        self._keys: list[Key] = []
        self._scores = np.zeros((64, len(self._directions)))
        self._truth = np.zeros(64)
        self._distinct: list[int] = []  # how many had been scored at each point

    def update(self, history: list[Step], returned: Architecture | None = None) -> Point:
        """Adds the new steps of the history and returns the last point.

        Args:
            history: history from `run_search`.
            returned: what the searcher would return after the last step. If None, and at points
                within a step, the best by rank of all scored architectures is taken.
        """
        seen = evaluations(history[: self._steps])
        for masks, scores in history[self._steps :]:
            # Split the step, so that a large first step gives more than one point.
            piece = max(16, seen // 16)
            for start in range(0, len(masks), piece) if is_single(masks) else (0,):
                end = start + piece if is_single(masks) else len(masks)
                seen += len(masks[start:end])
                at_end = returned if seen == evaluations(history) else None
                self._add(seen, masks[start:end], scores[start:end], at_end)
        self._steps = len(history)
        return self.points[-1]

    def finish(self, arch: Architecture) -> None:
        """Adds the result of a search over supernets: its last supernet has one member."""
        if self.points and not self._row:
            accuracy = float(self._accuracies(np.asarray(arch)[None])[0])
            last = self.points[-1].evaluations
            self._append(Point(last, accuracy, accuracy, np.nan, 1), None)

    @property
    def distinct(self) -> int:
        """Number of architectures with a finite score so far."""
        return len(self._row)

    def scores(self) -> Float[np.ndarray, " k"] | None:
        """Returns mean scores and costs of the current best; None: nothing, or a supernet."""
        row = self._row.get(self.returned[-1] or ())
        return None if row is None else self._scores[row]

    def places(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Returns final places at each point, by rank among all scored architectures; 1 is best.

        Returns:
            Place of the best architecture scored by then, and place of the architecture that
            would have been returned; NaN: nothing, or a supernet.
        """
        place = np.full(len(self._row) + 1, np.nan)
        place[self._order()] = np.arange(1.0, len(self._row) + 1)
        best = np.concatenate([[np.nan], np.fmin.accumulate(place[:-1])])
        rows = [-1 if key is None else self._row.get(key, -1) for key in self.returned]
        return best[np.array(self._distinct, int)], place[np.array(rows, int)]

    def _accuracies(self, archs: np.ndarray) -> np.ndarray:
        return self._accuracy(archs) if self._accuracy else np.full(len(archs), np.nan)

    def _order(self) -> Int[np.ndarray, " n"]:
        """Returns the rows of all scored architectures, the best first."""
        if not self._row:
            return np.zeros(0, int)
        scores = self._scores[: len(self._row)]
        return np.asarray(ranks.best_first(scores, self._directions, ranking=self._ranking))

    def _keep(self, arch: np.ndarray, mean: np.ndarray, accuracy: float) -> None:
        """Adds one architecture with a finite score."""
        key = tuple(int(option) for option in arch)
        if key in self._row:
            return
        if len(self._row) == len(self._scores):
            self._scores = np.resize(self._scores, (2 * len(self._scores), len(mean)))
            self._truth = np.resize(self._truth, 2 * len(self._truth))
        self._scores[len(self._row)], self._truth[len(self._row)] = mean, accuracy
        self._row[key] = len(self._row)
        self._keys.append(key)

    def _add(
        self, seen: int, masks: np.ndarray, scores: np.ndarray, returned: Architecture | None
    ) -> None:
        if not is_single(masks):
            self._append(self._supernet(seen, masks[0]), None)
            return
        archs, means = masks.argmax(-1), scores[..., : self._votes].mean(1)
        finite = np.isfinite(means).any(1)
        if self._costs:
            means = np.concatenate([means, self._costs(masks)], 1)
        accuracies = self._accuracies(archs)
        for i in np.flatnonzero(finite):
            self._keep(archs[i], means[i], float(accuracies[i]))
        order = self._order()
        if not len(order):
            self._append(Point(seen, np.nan, np.nan, np.nan, 1), None)
            return
        key = (
            self._keys[order[0]] if returned is None else tuple(int(option) for option in returned)
        )
        row = self._row.get(key)
        position = np.nan if row is None else float(np.flatnonzero(order == row)[0] + 1)
        found = np.nan if row is None else float(self._truth[row])
        best = _best_known(self._truth[: len(order)])
        self._append(Point(seen, best, found, position, 1), key)

    def _append(self, point: Point, returned: Key | None) -> None:
        self.points.append(point)
        self.returned.append(returned)
        self._distinct.append(len(self._row))

    def _supernet(self, seen: int, mask: Bool[np.ndarray, "d o"]) -> Point:
        count = math.prod(int(n) for n in mask.sum(1))
        members = np.zeros((0, len(mask)), np.int32)
        if self._accuracy and count <= self._most_members:
            members = np.array(list(itertools.product(*map(np.flatnonzero, mask))), np.int32)
        if not len(members):
            best = self.points[-1].best if self.points else np.nan
            return Point(seen, best, np.nan, np.nan, count)
        accuracies = self._accuracies(members)
        known = accuracies[~np.isnan(accuracies)]
        mean = float(known.mean()) if len(known) else np.nan
        return Point(seen, _best_known(accuracies), mean, np.nan, count)


def _best_known(accuracies: Float[np.ndarray, " n"]) -> float:
    """Returns the best of the accuracies that a table has; NaN: it has none."""
    known = accuracies[~np.isnan(accuracies)]
    return float(known.max()) if len(known) else np.nan


def is_single(masks: Bool[np.ndarray, "b d o"]) -> bool:
    """Returns whether all masks are single architectures, not supernets."""
    return bool((masks.sum(-1) == 1).all())
