"""The winner's curve against counting all subsets, and its neighbours by hand."""

import itertools

import numpy as np
import pytest

from saboc_jax.statistics import correlation, winners


def by_counting(ranks, truth, m):
    """The mean over all subsets; candidates of equal rank win equally often."""
    best = []
    for subset in itertools.combinations(range(len(ranks)), m):
        least = min(ranks[i] for i in subset)
        best.append(np.mean([truth[i] for i in subset if ranks[i] == least]))
    return np.mean(best)


def test_the_curve_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    truth = rng.normal(90, 3, 9)
    for ranks in (rng.permutation(9).astype(float), np.array([1, 2, 2, 2, 5, 5, 7, 8, 9.0])):
        curve = winners.winners(ranks, truth, (1, 3, 8, 9), resamples=20)
        assert [point.m for point in curve] == [1, 3, 8, 9]
        for point in curve:
            assert point.expected == pytest.approx(by_counting(ranks, truth, point.m))
            assert point.low <= point.high
    assert winners.best_by_chance(truth, 4) == pytest.approx(by_counting(-truth, truth, 4))
    assert winners.best_by_chance(truth, 99) == truth.max()


def test_a_score_can_order_well_and_still_lose_by_searching_more():
    truth = np.arange(1000.0) / 10
    score = truth.copy()
    score[500] = 1e3  # overrated: tau does not see it, the winner of everything is it
    row = correlation.statistics("x", score[:, None], truth, True, resamples=5)
    curve = winners.winners(-score, truth, (8, 100, 1000), resamples=5)
    assert row["tau"] > 0.99
    assert curve[1].expected > curve[0].expected > curve[2].expected == 50.0


def test_large_sets_do_not_overflow_and_sizes_are_checked():
    truth = np.arange(15625.0)
    curve = winners.winners(-truth, truth, resamples=2)
    assert [point.m for point in curve][:3] == [8, 16, 32] and curve[-1].m == 15625
    assert curve[-1].expected == pytest.approx(15624)
    assert curve[0].expected == pytest.approx(8 / 9 * 15626 - 1, rel=1e-6)  # of order statistics
    with pytest.raises(ValueError, match=r"best of \[4\] among 3 candidates; allowed: 1 to 3"):
        winners.winners(truth[:3], truth[:3], (4,))
    assert winners.default_sizes(5) == (5,) and winners.default_sizes(16) == (8, 16)


def test_ndcg_and_tau_of_the_best_by_hand():
    truth = np.array([92.0, 93.0, 90.0])
    gains, discounts = np.array([1 / 2, 1, 1 / 8]), 1 / np.log2([2, 3, 4])
    ideal = np.array([1, 1 / 2, 1 / 8]) @ discounts
    assert winners.ndcg(np.array([1, 2, 3]), truth) == pytest.approx(gains @ discounts / ideal)
    assert winners.ndcg(-truth, truth) == pytest.approx(1)
    tied = np.array([3 / 4, 3 / 4, 1 / 8]) @ discounts / ideal
    assert winners.ndcg(np.array([1.5, 1.5, 3]), truth) == pytest.approx(tied)
    ranks = np.array([4.0, 3, 2, 1, 5, 6])
    assert winners.tau_of_best(ranks, np.arange(6.0, 0, -1), 0.5) == pytest.approx(-1)


def test_one_training_is_the_ceiling_of_the_others():
    truth = np.linspace(80, 94, 60)
    trainings = winners.simulated_trainings(truth, np.full(60, 0.5))
    row, curve = correlation.ceiling_rows(trainings, resamples=5)
    assert row["score"] == "another training" and 0.8 < row["tau"] < 1
    assert curve[-1].m == 60 and 93 < curve[-1].expected <= 95
    with pytest.raises(ValueError, match=r"allowed: \[n, 2 or more\]"):
        winners.ceiling(truth[:, None])
