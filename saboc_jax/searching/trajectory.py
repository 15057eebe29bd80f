"""How a search came to its result: what it had found after every evaluation.

Two questions are kept apart. What is the best architecture it has scored (the luck of what it
looked at)? And what would it return now (which is the scorer's choice among them)? Both are
answered with true accuracies, which the search itself never sees, where they are known, and by
rank among what was scored.

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
"""Costs that a search between objectives is told after the scores."""
Key = tuple[int, ...]
"""An architecture, hashable."""


class Point(NamedTuple):
    """Where a search stood.

    Attributes:
        evaluations: candidates scored so far.
        best: the best true accuracy among them; of a supernet, among its members. NaN: unknown.
        found: the true accuracy of what the search would return now; of a supernet, the mean
            over its members. NaN: unknown, or nothing has a finite score yet.
        position: the place of what would be returned among the distinct architectures scored so
            far, by rank, 1 the best; NaN for a supernet.
        members: architectures that it would return one of: 1, or the members of the supernet.
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
        most_members: a supernet of more members is not looked into.
        costs: what the searcher is told after the metrics, see `run_search`; None: nothing.

    Attributes:
        points: one after every step, and some within a long one.
        returned: what would have been returned at each point; None: nothing, or a supernet.
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
        self._steps = 0
        self._row: dict[Key, int] = {}  # of every scored architecture, in the order of scoring
        self._keys: list[Key] = []
        self._scores = np.zeros((64, len(self._directions)))
        self._truth = np.zeros(64)
        self._distinct: list[int] = []  # how many had been scored at each point

    def update(self, history: list[Step], returned: Architecture | None = None) -> Point:
        """Takes in the steps it has not seen; gives the last point.

        Args:
            history: of `run_search`.
            returned: what the searcher would return after the last step. None, and within a
                step: the best by rank of all that were scored.
        """
        seen = evaluations(history[: self._steps])
        for masks, scores in history[self._steps :]:
            # Pieces, so that a large first step is more than one point.
            piece = max(16, seen // 16)
            for start in range(0, len(masks), piece) if is_single(masks) else (0,):
                end = start + piece if is_single(masks) else len(masks)
                seen += len(masks[start:end])
                at_end = returned if seen == evaluations(history) else None
                self._add(seen, masks[start:end], scores[start:end], at_end)
        self._steps = len(history)
        return self.points[-1]

    def finish(self, arch: Architecture) -> None:
        """Takes in the result of a search over supernets: the last supernet has one member."""
        if self.points and not self._row:
            accuracy = float(self._accuracies(np.asarray(arch)[None])[0])
            last = self.points[-1].evaluations
            self._append(Point(last, accuracy, accuracy, np.nan, 1), None)

    @property
    def distinct(self) -> int:
        """Architectures with a finite score so far."""
        return len(self._row)

    def scores(self) -> Float[np.ndarray, " k"] | None:
        """Mean scores, and costs, of what would be returned now; None: nothing, or a supernet."""
        row = self._row.get(self.returned[-1] or ())
        return None if row is None else self._scores[row]

    def places(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """For each point, places by rank among all that were scored to the end, 1 the best.

        Returns:
            Of the best that had been scored, and of what would have been returned; NaN: nothing,
            or a supernet.
        """
        place = np.full(len(self._row) + 1, np.nan)
        place[self._order()] = np.arange(1.0, len(self._row) + 1)
        best = np.concatenate([[np.nan], np.fmin.accumulate(place[:-1])])
        rows = [-1 if key is None else self._row.get(key, -1) for key in self.returned]
        return best[np.array(self._distinct, int)], place[np.array(rows, int)]

    def _accuracies(self, archs: np.ndarray) -> np.ndarray:
        return self._accuracy(archs) if self._accuracy else np.full(len(archs), np.nan)

    def _order(self) -> Int[np.ndarray, " n"]:
        """Rows of all scored architectures, the best first."""
        if not self._row:
            return np.zeros(0, int)
        scores = self._scores[: len(self._row)]
        return np.asarray(ranks.best_first(scores, self._directions, ranking=self._ranking))

    def _keep(self, arch: np.ndarray, mean: np.ndarray, accuracy: float) -> None:
        """Takes in one architecture that has a finite score."""
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
        archs, means = masks.argmax(-1), scores.mean(1)
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
        best = float(self._truth[: len(order)].max())
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
        return Point(seen, float(accuracies.max()), float(accuracies.mean()), np.nan, count)


def is_single(masks: Bool[np.ndarray, "b d o"]) -> bool:
    """Are all of them architectures, none a supernet?"""
    return bool((masks.sum(-1) == 1).all())
