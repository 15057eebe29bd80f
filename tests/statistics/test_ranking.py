import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saboc_jax.statistics import ranking

DIRECTIONS = (True, False, False)
# A slow machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
JITTED = {
    name: jax.jit(partial(rank, higher_is_better=DIRECTIONS))
    for name, rank in ranking.AGGREGATIONS.items()
}
# Few distinct values make ties frequent; they are exact in float32 too.
few_values = st.one_of(
    st.integers(-4, 4).map(float), st.sampled_from([math.nan, math.inf, -math.inf])
)


def tables(elements=few_values, k=3):
    return st.integers(1, 12).flatmap(lambda n: hnp.arrays(np.float64, (n, k), elements=elements))


def brute_force_rank(column, higher_is_better, ties):
    """By the definition: count who is strictly better and who is equal."""
    bad = [not math.isfinite(v) for v in column]
    cost = [
        math.inf if b else (-v if higher_is_better else v) for v, b in zip(column, bad, strict=True)
    ]
    better = [sum(c < mine for c in cost) for mine in cost]
    equal = [sum(c == mine for c in cost) for mine in cost]
    if ties == "average":
        return [b + (e + 1) / 2 for b, e in zip(better, equal, strict=True)]
    if ties == "min":
        return [b + 1 for b in better]
    if ties == "dense":
        return [len({c for c in cost if c < mine}) + 1 for mine in cost]
    earlier = [sum(cost[j] == cost[i] for j in range(i)) for i in range(len(cost))]
    return [
        len(cost) if is_bad else b + e + 1
        for b, e, is_bad in zip(better, earlier, bad, strict=True)
    ]


@pytest.mark.parametrize("ties", ["average", "min", "dense", "ordinal"])
@given(scores=tables())
def test_ranks_are_those_of_the_definition(ties, scores):
    ranks = ranking.per_metric_ranks(scores, DIRECTIONS, ties=ties)
    for j, higher in enumerate(DIRECTIONS):
        np.testing.assert_array_equal(ranks[:, j], brute_force_rank(scores[:, j], higher, ties))


@pytest.mark.parametrize("ties", ["average", "min", "dense", "ordinal"])
@given(scores=tables(st.integers(-4, 4).map(float)))
def test_ranks_are_those_of_scipy(ties, scores):
    expected = scipy.stats.rankdata(scores * np.array([-1, 1, 1]), method=ties, axis=0)
    np.testing.assert_array_equal(ranking.per_metric_ranks(scores, DIRECTIONS, ties=ties), expected)


def test_borda_is_equation_12_by_hand():
    scores = np.array([[0.9, 3.0, 1.0], [0.5, 1.0, 2.0], [0.5, 2.0, np.nan]])
    # NaN puts the third last by all. Metric 1, higher better: 1, 2. Metric 2: 2, 1. Metric 3: 1, 2.
    np.testing.assert_array_equal(ranking.borda(scores, DIRECTIONS), [4.0, 5.0, 9.0])
    scores[2, 2] = np.inf  # the worst by metric 3 only
    # Metric 1, higher better: 1, 2.5, 2.5. Metric 2, lower better: 3, 1, 2. Metric 3: 1, 2, 3.
    np.testing.assert_array_equal(ranking.borda(scores, DIRECTIONS), [5.0, 5.5, 7.5])


@pytest.mark.parametrize("name", ranking.AGGREGATIONS)
@given(scores=tables(st.integers(-4, 4).map(float)), metric=st.integers(0, 2))
def test_one_nan_makes_an_architecture_last(name, scores, metric):
    best = [9.0, -9.0, -9.0]
    partly = np.array(best)
    partly[metric] = np.nan
    rank = ranking.AGGREGATIONS[name]
    ranks = rank(np.concatenate([scores, [best, partly, [np.nan] * 3]]), DIRECTIONS)
    if name == "first" and metric != 0:  # it looks at one metric only
        assert ranks[-2] == ranks[-3]
    else:
        assert ranks[-2] == ranks[-1] and (ranks[:-2] < ranks[-1]).all()


def test_minus_infinity_is_a_value_of_az_nas():
    # An identity cell, trainability -inf, first by the others: not behind one that is last by all.
    scores = np.array([[3.0, 3.0, -np.inf, 3.0], [2.0, 2.0, 1.0, 2.0], [1.0, 1.0, 0.0, 1.0]])
    ranks = ranking.log_rank(scores, (True,) * 4)
    places = np.array([[3, 2, 1], [3, 2, 1], [1, 3, 2], [3, 2, 1]]) / 3
    np.testing.assert_allclose(ranks, -np.log(places).sum(0))
    assert ranks[0] < ranks[2]


@given(scores=tables(), data=st.data())
def test_borda_sees_only_the_order_within_a_metric(scores, data):
    transforms = [lambda x: x**3, np.exp, lambda x: 7 * x - 100, np.arctan]
    chosen = data.draw(st.lists(st.sampled_from(transforms), min_size=3, max_size=3))
    finite = np.isfinite(scores)
    columns = [
        np.where(ok, f(np.where(ok, s, 0)), s)
        for f, s, ok in zip(chosen, scores.T, finite.T, strict=True)
    ]
    np.testing.assert_array_equal(
        ranking.borda(np.stack(columns, axis=1), DIRECTIONS), ranking.borda(scores, DIRECTIONS)
    )


@given(scores=tables())
def test_reversing_a_metric_and_its_direction_changes_nothing(scores):
    np.testing.assert_array_equal(
        ranking.borda(-scores, [not d for d in DIRECTIONS]), ranking.borda(scores, DIRECTIONS)
    )


@pytest.mark.parametrize("name", ranking.AGGREGATIONS)
@given(scores=tables(), data=st.data())
def test_every_aggregation_is_equivariant_to_permutations(name, scores, data):
    permutation = np.array(data.draw(st.permutations(range(len(scores)))))
    rank = ranking.AGGREGATIONS[name]
    np.testing.assert_allclose(
        rank(scores[permutation], DIRECTIONS), rank(scores, DIRECTIONS)[permutation], atol=1e-12
    )


@pytest.mark.parametrize("name", ranking.AGGREGATIONS)
@given(scores=tables(st.integers(-4, 4).map(float)), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_every_aggregation_puts_a_dead_architecture_last(name, scores, bad):
    with_dead = np.concatenate([scores, np.full((2, 3), bad)])
    ranks = ranking.AGGREGATIONS[name](with_dead, DIRECTIONS)
    assert np.isfinite(ranks).all()
    assert ranks[-1] == ranks[-2]
    assert (ranks[:-2] < ranks[-1]).all()


@pytest.mark.parametrize("name", ranking.AGGREGATIONS)
@given(scores=tables())
def test_every_aggregation_never_punishes_an_improvement(name, scores):
    better = scores.copy()
    better[0] = np.where(np.isfinite(better[0]), better[0], 0) + np.array([9, -9, -9])
    rank = ranking.AGGREGATIONS[name]
    after = rank(better, DIRECTIONS)
    assert after[0] == pytest.approx(after.min())
    before_place = (rank(scores, DIRECTIONS) < rank(scores, DIRECTIONS)[0] - 1e-12).sum()
    assert (after < after[0] - 1e-12).sum() <= before_place


@pytest.mark.parametrize("name", ranking.AGGREGATIONS)
@settings(max_examples=20, deadline=None)
@given(scores=hnp.arrays(np.float32, (6, 3), elements=few_values.map(np.float32)))
def test_aggregations_on_arrays_of_jax_under_jit_equal_numpy(name, scores):
    rank = ranking.AGGREGATIONS[name]
    under_jit = JITTED[name](jnp.asarray(scores))
    assert isinstance(under_jit, jax.Array)
    np.testing.assert_allclose(under_jit, rank(scores, DIRECTIONS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ties", ["average", "min", "dense", "ordinal"])
def test_ties_under_jit_equal_numpy(ties):
    scores = np.array([[1, 0, 2], [1, np.nan, 2], [0, np.inf, 2], [3, 0, -np.inf]], np.float32)
    under_jit = jax.jit(lambda s: ranking.borda(s, DIRECTIONS, ties=ties))(jnp.asarray(scores))
    np.testing.assert_array_equal(under_jit, ranking.borda(scores, DIRECTIONS, ties=ties))


@given(scores=tables(st.floats(-1e6, 1e6), k=2))
def test_log_rank_orders_as_the_formula_of_az_nas(scores):
    ascending = scipy.stats.rankdata(scores, axis=0)
    expected = np.log(ascending / len(scores)).sum(axis=1)
    np.testing.assert_allclose(ranking.log_rank(scores, (True, True)), -expected, atol=1e-12)


def test_mean_z_score_by_hand():
    scores = np.array([[1.0, 10.0], [2.0, 10.0], [3.0, np.inf]])
    z = np.sqrt(1.5)
    np.testing.assert_allclose(
        ranking.mean_z_score(scores, (True, False)), [z / 2, 0, (-z + 1) / 2], atol=1e-12
    )
    scores[2, 1] = np.nan  # not finite in metric 1 either, whose values are then 1 and 2
    np.testing.assert_allclose(ranking.mean_z_score(scores, (True, False)), [0.5, -0.5, 1.5])


def test_ranks_reject_what_does_not_fit():
    with pytest.raises(ValueError, match="ties='first'"):
        ranking.borda(np.ones((2, 1)), (True,), ties="first")
    with pytest.raises(ValueError, match=r"allowed: \[n, 2\]"):
        ranking.borda(np.ones((2, 3)), (True, False))


def test_order_asks_tie_breakers_in_turn_and_then_the_index():
    total = np.array([2.0, 1.0, 2.0, 2.0, 2.0])
    first = np.array([1.0, 9.0, 0.0, 1.0, 1.0])
    second = np.array([5.0, 9.0, 9.0, 4.0, 5.0])
    expected = [1, 2, 3, 0, 4]
    assert ranking.order(total, first, second).tolist() == expected
    assert jax.jit(ranking.order)(*map(jnp.asarray, (total, first, second))).tolist() == expected


def test_best_first_breaks_ties_by_the_second_metric_then_the_first():
    # All three have the Borda sum 4 of ranks (1, 3), (2, 2), (3, 1).
    scores = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert ranking.best_first(scores, (False, False)).tolist() == [2, 1, 0]
    assert ranking.best_first(scores, (False, False), break_ties_by=(0,)).tolist() == [0, 1, 2]
    assert ranking.best_first(scores, (False, False), break_ties_by=()).tolist() == [0, 1, 2]
    assert ranking.best_first(scores[:, :1], (True,)).tolist() == [2, 1, 0]


@given(objectives=tables(k=3))
def test_pareto_front_is_who_is_not_dominated(objectives):
    signs = np.array([-1, 1, 1])

    def dominates(a, b):
        a, b = a * signs, b * signs
        return bool((a <= b).all() and (a < b).any())

    finite = np.isfinite(objectives).all(axis=1)
    expected = [
        ok and not any(dominates(q, p) for q in objectives[finite])
        for p, ok in zip(objectives, finite, strict=True)
    ]
    assert ranking.pareto_front(objectives, DIRECTIONS).tolist() == expected


def brute_force_tau_b(x, y):
    concordant = discordant = ties_x = ties_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        product = np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
        concordant += product > 0
        discordant += product < 0
        ties_x += x[i] == x[j]
        ties_y += y[i] == y[j]
    pairs = len(x) * (len(x) - 1) / 2
    return (concordant - discordant) / math.sqrt((pairs - ties_x) * (pairs - ties_y))


@given(
    pairs=hnp.arrays(np.float64, (10, 2), elements=st.integers(-3, 3).map(float)).filter(
        lambda a: (np.ptp(a, axis=0) > 0).all()
    )
)
def test_kendall_is_tau_b_and_spearman_is_pearson_of_ranks(pairs):
    x, y = pairs.T
    assert ranking.kendall(x, y) == pytest.approx(brute_force_tau_b(x, y), abs=1e-12)
    rho = np.corrcoef(scipy.stats.rankdata(x), scipy.stats.rankdata(y))[0, 1]
    assert ranking.spearman(x, y) == pytest.approx(rho, abs=1e-12)


@pytest.mark.parametrize("statistic", [ranking.kendall, ranking.spearman])
def test_non_finite_scores_count_as_the_worst(statistic):
    accuracy = np.array([10.0, 60.0, 70.0, 80.0])
    loss = np.array([np.nan, 3.0, 2.0, 1.0])
    assert statistic(loss, accuracy, (False, True)) == pytest.approx(-1)
    assert statistic(-loss, accuracy, (True, True)) == pytest.approx(1)
    assert statistic(np.array([np.inf, 1.0, 2.0, 3.0]), accuracy) == pytest.approx(1)


@pytest.mark.parametrize("statistic", [ranking.kendall, ranking.spearman])
def test_correlation_with_a_constant_is_undefined(statistic):
    assert math.isnan(statistic(np.ones(4), np.arange(4.0)))
    with pytest.raises(ValueError, match="shapes"):
        statistic(np.ones(4), np.ones(3))


def test_kendall_matrix_is_symmetric_with_the_pairwise_values():
    scores = np.random.default_rng(0).normal(size=(30, 3))
    matrix = ranking.kendall_matrix(scores, DIRECTIONS)
    np.testing.assert_allclose(np.diag(matrix), 1)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix[0, 2] == pytest.approx(brute_force_tau_b(scores[:, 0], scores[:, 2]))


def test_bootstrap_interval_of_a_mean_is_that_of_the_normal_theory():
    x = np.random.default_rng(1).normal(size=400)
    interval = ranking.bootstrap_interval(
        lambda a, _: float(a.mean()), x, x, 0, resamples=4000, level=0.9
    )
    half_width = 1.645 * x.std() / 20
    assert interval.estimate == x.mean()
    assert interval.low == pytest.approx(x.mean() - half_width, abs=0.1 * half_width)
    assert interval.high == pytest.approx(x.mean() + half_width, abs=0.1 * half_width)


def test_bootstrap_is_reproducible_and_takes_a_key():
    x, y = np.random.default_rng(2).normal(size=(2, 50))
    key = jax.random.key(3)
    first = ranking.bootstrap_interval(ranking.kendall, x, y, key, resamples=50)
    assert first == ranking.bootstrap_interval(ranking.kendall, x, y, key, resamples=50)
    other = ranking.bootstrap_interval(ranking.kendall, x, y, jax.random.key(4), resamples=50)
    assert first.low < first.estimate < first.high
    assert first != other
    with pytest.raises(ValueError, match="level=95"):
        ranking.bootstrap_interval(ranking.kendall, x, y, 0, level=95)
    with pytest.raises(ValueError, match="seed=-1; allowed"):
        ranking.bootstrap_interval(ranking.kendall, x, y, -1)


def test_regret_is_what_the_best_of_the_chosen_lacks():
    ranks, accuracy = np.array([2.0, 1.0, 3.0, 1.0]), np.array([70.0, 50.0, 90.0, 80.0])
    assert [ranking.regret_at_k(ranks, accuracy, k) for k in (1, 2, 3, 4)] == [40, 10, 10, 0]
    with pytest.raises(ValueError, match="k=5"):
        ranking.regret_at_k(ranks, accuracy, 5)
