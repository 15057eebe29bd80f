"""Correlation rows against SciPy and against orders worked out by hand."""

import numpy as np
import pytest
import scipy.stats

from saboc_jax.scorers.combine import combine
from saboc_jax.statistics import correlation
from saboc_jax.types import Passes, Scorer


def scorer(name, metrics, directions):
    return Scorer(name, metrics, directions, frozenset(), Passes(0, 0), {}, lambda *_: None, {})


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40)
    noise = rng.normal(size=(40, 3, 4))
    return truth, noise - truth[:, None, None]


def test_a_row_is_scipys_tau_and_rho_of_the_mean_over_repeats(sample):
    truth, scores = sample
    values = scores[..., 0]
    row = correlation.statistics("x", values, truth, False, resamples=200)
    assert row["tau"] == pytest.approx(scipy.stats.kendalltau(values.mean(1), truth).statistic)
    assert row["rho"] == pytest.approx(scipy.stats.spearmanr(values.mean(1), truth).statistic)
    taus = [scipy.stats.kendalltau(values[:, r], truth).statistic for r in range(3)]
    assert row["tau of one repeat"] == pytest.approx(np.mean(taus))
    assert row["sd"] == pytest.approx(np.std(taus, ddof=1))
    assert row["low"] < row["tau"] < row["high"] < 0
    rhos = [scipy.stats.spearmanr(values[:, r], truth).statistic for r in range(3)]
    assert row["rho of one repeat"] == pytest.approx(np.mean(rhos))
    assert row["rho sd"] == pytest.approx(np.std(rhos, ddof=1))
    assert row["rho low"] < row["rho"] < row["rho high"] < 0
    best_two = np.argsort(values.mean(1))[:2]
    assert row["regret@5%"] == pytest.approx(truth.max() - truth[best_two].max())


def test_a_score_that_is_not_finite_is_the_worst_and_counted(sample):
    truth, scores = sample
    values = scores[..., 0].copy()
    values[truth.argmin()] = np.nan
    row = correlation.statistics("x", values, truth, False, resamples=10)
    filled = np.where(np.isnan(values), 1e9, values).mean(1)
    assert row["tau"] == pytest.approx(scipy.stats.kendalltau(filled, truth).statistic)
    assert row["bad"] == 1


def test_regret_is_that_of_each_share(sample):
    truth, scores = sample
    values = scores[..., 0]
    row = correlation.statistics("x", values, truth, False, resamples=5, top_k=(0.01, 0.1, 1))
    order = np.argsort(values.mean(1))
    for share, k in (("1", 1), ("10", 4), ("100", 40)):
        expected = truth.max() - truth[order[:k]].max()
        assert row[f"regret@{share}%"] == pytest.approx(expected)
    assert [correlation.number_of(0.29, 100), correlation.number_of(0.05, 1024)] == [29, 51]
    with pytest.raises(ValueError, match="top_k=5; allowed: above 0 and at most 1"):
        correlation.statistics("x", values, truth, False, resamples=5, top_k=(5,))


def test_an_aggregation_counts_the_bad_of_its_metrics(sample):
    truth, scores = sample
    scores = scores[..., :3].copy()
    scores[0, 1, 0], scores[1, 0, 1], scores[1, 0, 2], scores[2, 0, 2] = np.nan, np.inf, np.nan, 1
    ntk = scorer("ntk_score:norm=fro", ("S_t", "S_e", "S_g"), (False,) * 3)
    rows = correlation.table(ntk, scores, truth, resamples=5)
    found = {row["score"].partition("norm=fro ")[2] or row["score"]: row["bad"] for row in rows}
    assert found == {
        "S_t": 1,
        "S_e": 1,
        "S_g": 1,
        "borda S_t&S_e": 2,
        "borda S_t&S_g": 2,
        "borda S_e&S_g": 1,
        "borda": 2,
    }


def test_aggregation_ranks_every_repeat_by_itself(sample):
    _, scores = sample
    ours = correlation.aggregated(scores[..., :2], (False, True))
    for repeat in range(3):
        up = scipy.stats.rankdata(scores[:, repeat, 0])
        down = scipy.stats.rankdata(-scores[:, repeat, 1])
        np.testing.assert_array_equal(ours[:, repeat], up + down)


def test_candidates_are_metrics_pairs_and_aggregations_of_each_part(sample):
    truth, scores = sample
    ntk = scorer("ntk_score", ("S_t", "S_e", "S_g"), (False,) * 3)
    both = combine([ntk, scorer("size", ("size",), (True,))])
    rows = correlation.table(both, scores, truth, aggregations=("borda", "sum"), resamples=5)
    assert [row["score"] for row in rows] == [
        "ntk_score.S_t",
        "ntk_score.S_e",
        "ntk_score.S_g",
        "size",
        "ntk_score borda S_t&S_e",
        "ntk_score borda S_t&S_g",
        "ntk_score borda S_e&S_g",
        "ntk_score borda",
        "ntk_score sum",
    ]
    assert all(row["tau"] < 0 for row in rows)  # every column falls with the truth
    assert [row["better"] for row in rows] == [*3 * ["lower"], "higher", *5 * ["lower"]]


def test_tau_between_scores_is_oriented(sample):
    _, scores = sample
    found = {
        "down": correlation.Candidate(scores[..., 0], False),
        "up": correlation.Candidate(-scores[..., 0], True),
    }
    names, matrix = correlation.tau_matrix(found)
    assert names == ["down", "up"]
    np.testing.assert_allclose(matrix, 1)


def test_tau_within_groups_is_the_mean_of_each_by_hand():
    each = correlation.Candidate(np.array([[1.0], [2.0], [3.0], [4.0]]), True)
    rising, falling = np.array([0, 1, 2]), np.array([3, 1])
    groups = [(rising, np.array([50.0, 60.0, 70.0])), (falling, np.array([10.0, 20.0]))]
    assert correlation.tau_within(each, groups) == pytest.approx((1 - 1) / 2)
    lower = each._replace(higher_is_better=False)
    assert correlation.tau_within(lower, groups[:1]) == pytest.approx(1)  # the sign is of values
