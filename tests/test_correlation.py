"""Correlation rows against SciPy and against orders worked out by hand."""

import numpy as np
import pytest
import scipy.stats

from saboc_jax import correlation
from saboc_jax.scorers.base import combine
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
    found = {"down": (scores[..., 0], False), "up": (-scores[..., 0], True)}
    names, matrix = correlation.tau_matrix(found)
    assert names == ["down", "up"]
    np.testing.assert_allclose(matrix, 1)
