"""How sure an order is: paired over draws, in groups."""

import math

import numpy as np
import pytest
import scipy.stats

from saboc_jax.statistics import ranking, sureness


def test_the_probability_is_students_and_paired():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 9, 4)  # both move with the draw: paired, it does not matter
    first, second = shared + np.array([1, 1.2, 0.9, 1.1]), shared + np.array([2, 2.1, 2.2, 1.8])
    expected = scipy.stats.ttest_rel(second, first, alternative="greater").pvalue
    assert sureness.probability_better(first, second) == pytest.approx(1 - expected)
    assert sureness.probability_better(second, first) == pytest.approx(expected)
    same = np.ones(3)
    assert sureness.probability_better(same, same) == 0.5
    assert sureness.probability_better(same, same + 1) == 1
    assert math.isnan(sureness.probability_better(same[:1], same[:1]))


def test_groups_begin_where_the_first_is_told_apart():
    ranks = np.array([[1.0, 2, 1], [2, 1, 2], [5, 5.1, 5], [9, 9.1, 9], [5.2, 4.9, 5.1]])
    order = np.array([0, 1, 2, 4, 3])
    assert sureness.groups(ranks, order).tolist() == [1, 1, 2, 2, 3]
    holds = sureness.holds(ranks, order)
    assert holds[1] > 0.95 and 0.5 < holds[0] < 0.9 and math.isnan(holds[-1])
    assert sureness.groups(ranks[:, :1], order).tolist() == [1] * 5  # one draw tells nothing


def test_ranks_of_a_draw_are_among_all_and_a_lonely_winner_is_counted():
    values = np.zeros((10, 2, 3))
    values[:, :, :] = np.arange(10.0)[:, None, None]
    values[0, :, 0] = 99
    ranks = sureness.ranks_by_draw(values, (True,) * 3, ranking.borda)
    assert ranks.shape == (10, 2) and ranks[9, 0] == 2 + 1 + 1
    assert sureness.loved_by(values.mean(1), (True,) * 3, 0) == (1, 3)
    assert sureness.loved_by(values.mean(1), (True,) * 3, 9) == (3, 3)
