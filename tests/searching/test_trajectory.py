"""Trajectories of searches against the same numbers computed from the whole history."""

import itertools

import numpy as np

from saboc_jax.reports.search_figures import front_figure, place, progress_figure, trajectory_figure
from saboc_jax.searching.trajectory import Trajectory
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.statistics import ranking

DIRECTIONS = (False, True)


def accuracy(archs):
    return 50 + (np.asarray(archs) * [9, 3, 1]).sum(1)


def steps(seed, sizes):
    rng = np.random.default_rng(seed)
    history = []
    for size in sizes:
        archs = rng.integers(0, 3, (size, 3))
        scores = rng.normal(size=(size, 2, 2))
        # An architecture has one score, and some have none.
        scores[:] = np.sin(archs @ [[7.0, 2.0], [3.0, 5.0], [1.0, 11.0]])[:, None]
        scores[archs.sum(1) == 1] = np.nan
        history.append((architecture_to_mask(archs, 3), scores))
    return history


def test_points_are_the_best_seen_and_what_would_be_returned():
    history = steps(0, [1, 5, 40, 7])
    trajectory = Trajectory(accuracy, DIRECTIONS)
    for end in range(1, len(history) + 1):
        trajectory.update(history[:end])
    masks = np.concatenate([m for m, _ in history])
    scores = np.concatenate([s for _, s in history]).mean(1)
    assert [p.evaluations for p in trajectory.points] == [1, 6, 22, 38, 46, 53]
    for point in trajectory.points:
        archs, values = masks[: point.evaluations].argmax(-1), scores[: point.evaluations]
        distinct = {
            tuple(a): v for a, v in zip(archs.tolist(), values, strict=True) if np.isfinite(v).any()
        }
        if not distinct:
            assert np.isnan(point.found)
            continue
        known = np.array(list(distinct))
        best = ranking.best_first(np.array(list(distinct.values())), DIRECTIONS)[0]
        assert point.best == accuracy(known).max()
        assert point.found == accuracy(known)[best]


def test_one_update_gives_the_same_points_as_many():
    history = steps(1, [3, 30, 9])
    at_once, in_turn = Trajectory(accuracy, DIRECTIONS), Trajectory(accuracy, DIRECTIONS)
    last = at_once.update(history)
    for end in range(1, 4):
        in_turn.update(history[:end])
    np.testing.assert_array_equal(at_once.points, in_turn.points)
    np.testing.assert_array_equal(last, at_once.points[-1])


def test_what_would_be_returned_is_what_the_searcher_says(tmp_path):
    """A searcher that forgets need not return the best it has seen."""
    history = steps(3, [6, 6])
    masks = np.concatenate([m for m, _ in history])
    scores = np.concatenate([s for _, s in history]).mean(1)
    archs = [tuple(a) for a in masks.argmax(-1).tolist()]
    finite = {a: s for a, s in zip(archs, scores, strict=True) if np.isfinite(s).any()}
    order = [list(finite)[i] for i in ranking.best_first(np.array([*finite.values()]), DIRECTIONS)]
    trajectory = Trajectory(None, DIRECTIONS)
    point = trajectory.update(history, np.array(order[2]))
    assert point.position == 3 and np.isnan(point.found)
    assert trajectory.distinct == len(order)
    np.testing.assert_array_equal(trajectory.scores(), finite[order[2]])
    best, returned = trajectory.places()
    assert returned[-1] == 3 and best[-1] == 1
    (axes,) = progress_figure(trajectory, "a title").axes
    assert axes.yaxis_inverted() and len(axes.get_lines()) == 2


def test_a_cost_that_is_told_counts():
    archs = np.array([[0, 0, 2], [2, 2, 2], [0, 1, 2]])
    scores = np.array([[1.0], [3.0], [2.0]])[:, None]
    history = [(architecture_to_mask(archs, 3), scores)]
    costs = lambda masks: -10.0 * masks.argmax(-1)[:, :1]  # noqa: E731
    assert Trajectory(accuracy, (False,)).update(history).found == accuracy(archs)[0]
    told = Trajectory(
        accuracy, (False, False), costs=costs, ranking=lambda s, d: np.asarray(s)[:, 1]
    )
    assert told.update(history).found == accuracy(archs)[1]
    np.testing.assert_array_equal(told.scores(), [3.0, -20.0])


def test_without_accuracies_a_supernet_is_followed_by_its_members():
    mask = np.ones((1, 3, 3), bool)
    trajectory = Trajectory(None, DIRECTIONS)
    assert trajectory.update([(mask, np.zeros((1, 1, 2)))]).members == 27
    trajectory.finish(np.zeros(3, int))
    (axes,) = progress_figure(trajectory, "a title").axes
    assert axes.get_lines()[0].get_ydata().tolist() == [27, 1]


def test_a_supernet_is_the_best_and_the_mean_of_its_members():
    mask = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]], bool)
    members = np.array(list(itertools.product([0, 2], [1, 2], [2])))
    smaller = mask.copy()
    smaller[0, 0] = False
    trajectory = Trajectory(accuracy, DIRECTIONS)
    point = trajectory.update([(np.stack([mask, smaller]), np.zeros((2, 1, 2)))])
    assert point[:3] == (2, accuracy(members).max(), accuracy(members).mean())
    assert point.members == 4 and np.isnan(point.position)
    trajectory.finish(np.array([0, 1, 2]))
    assert trajectory.points[-1][:3] == (2, accuracy([[0, 1, 2]])[0], accuracy([[0, 1, 2]])[0])
    assert trajectory.points[-1].members == 1
    unseen = Trajectory(accuracy, DIRECTIONS, most_members=3)
    assert np.isnan(unseen.update([(mask[None], np.zeros((1, 1, 2)))]).found)


def test_place_counts_the_strictly_better():
    ascending = np.array([1.0, 2.0, 2.0, 5.0])
    assert [place(v, ascending) for v in (5.0, 2.0, 1.0)] == [1, 2, 4]
    assert np.isnan(place(float("nan"), ascending))


def test_figures_show_every_curve():
    trajectory = Trajectory(accuracy, DIRECTIONS)
    trajectory.update(steps(2, [20, 20]))
    above, below = trajectory_figure(trajectory.points, accuracy(np.eye(3)), "a title").axes
    assert above.get_title() == "a title"
    assert len(above.get_lines()) == 3
    assert below.yaxis_inverted()
    (axes,) = front_figure([1, 2, 3], [3, 2, 2.5], [True, True, False], ("macs", "rank")).axes
    assert axes.get_lines()[0].get_xdata().tolist() == [1, 2]
