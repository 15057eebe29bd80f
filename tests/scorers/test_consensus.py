"""`consensus`: one definition for cells and anybody's modules, ranks that need a set."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import saboc_jax as sj
from saboc_jax import data
from saboc_jax.scorers.consensus import WITNESSES
from saboc_jax.statistics import correlation, ranking

KEY = jax.random.key(0)
CELLS = [[3, 1, 0, 3, 1, 1], [1, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3], [2, 0, 0, 2, 4, 0], [0] * 6]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def space():
    return sj.make_space("nas_bench_201", channels=2, num_cells=1)


def ranked(space, archs, digits):
    return sj.rank(archs, digits, KEY, "consensus", space=space, repeats=2, batch_size=8)


def test_a_place_does_not_depend_on_the_order_of_candidates(space, digits):
    found = ranked(space, CELLS, digits)
    assert found.ranking == "anchored" and found.scores[0].metrics == WITNESSES
    order = [3, 0, 4, 2, 1]
    again = ranked(space, [CELLS[i] for i in order], digits)
    np.testing.assert_allclose(again.ranks, found.ranks[order], atol=1e-9)
    assert found.order[0] == 2 and found.order[-1] == 4  # no path is last
    values = np.stack([score.values for score in found.scores])
    error = WITNESSES.index("S_g")
    assert np.isinf(values[1, :, error]).all()  # no kernel
    assert np.isfinite(np.delete(values[1], error, 1)).all()
    costs = [sj.trained_cost(CELLS[i], space) for i in range(4)]
    np.testing.assert_array_equal(values[:4, 0, :2], [(c.params, c.macs) for c in costs])
    own = sj.score(CELLS[0], digits, KEY, "ntk_score", space=space, repeats=2, batch_size=8)
    assert "consensus: a rank needs a set" in str(found.scores[0])
    assert found.groups[0] == 1 and found.groups[-1] > 1 and np.isnan(found.holds[-1])
    np.testing.assert_allclose(values[0, :, error], own.values[:, 2], rtol=1e-5)  # the same S_g


class Net(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = nn.gelu(nn.Conv(width, (3, 3), 2)(x))
        return nn.Dense(10)(x.mean((1, 2)))


def test_it_ranks_anybodys_modules_and_its_search_ranks_all_that_it_scored(space, digits):
    modules = {"small": Net((2,)), "deep": Net((4, 4, 4)), "wide": Net((4,))}
    found = sj.rank(modules, digits, KEY, "consensus", repeats=1, batch_size=8)
    assert found.names[0] == "deep" and np.isfinite(found.ranks).all()
    searched = sj.search(
        space, digits, KEY, "consensus", repeats=1, batch_size=8, max_evaluations=6
    )
    masks = np.concatenate([masks for masks, _ in searched.search.history])
    scores = np.concatenate([scores for _, scores in searched.search.history])[:, 0]
    first = ranking.best_first(scores, searched.score.higher_is_better, ranking=ranking.anchored)
    assert searched.arch.tolist() == masks[first[0]].argmax(1).tolist()
    with pytest.raises(ValueError, match="'pruning' with scorer 'consensus', which has no meaning"):
        sj.search(space, digits, KEY, "consensus", searcher="pruning", batch_size=8)


def test_its_row_is_its_own_aggregation(space):
    scorer = sj.make_scorer("consensus", space)
    scores = np.random.default_rng(0).normal(size=(20, 1, len(WITNESSES)))
    found = correlation.candidates(scorer, scores, ("borda", "log_rank"))
    assert list(found) == [*WITNESSES, "consensus"] and not found["consensus"].higher_is_better
    own = ranking.anchored(scores[:, 0], scorer.higher_is_better)
    np.testing.assert_array_equal(found["consensus"].values[:, 0], own)


def test_what_all_others_contradict_hardly_counts():
    truth = np.arange(30.0)
    scores = np.stack([truth, truth + 0.1, truth * 2, -truth], 1)
    ranks = ranking.agreement(scores, (True,) * 4)
    assert (np.diff(ranks) < 0).all()  # borda of two against one would be flatter
    constant = np.concatenate([scores[:, :3], np.ones((30, 2))], 1)
    order = np.argsort(ranking.agreement(constant, (True,) * 5))
    assert order.tolist() == list(range(30))[::-1]


def by_hand(scores, higher):
    """`anchored` in plain loops: ranks from the worst, logarithms of their share."""
    n = len(scores)

    def places(column, up):
        costs = [-v if up else v for v in column]
        return np.array([1 + sum(c < own for c in costs) + (costs.count(own) - 1) / 2
                         for own in costs])  # fmt: skip

    ranks = [places(list(column), up) for column, up in zip(scores.T, higher, strict=True)]
    logs = [np.log((n + 1 - each) / n) for each in ranks]
    size = places(list(-sum(logs[:4])), False)
    total, weights = np.log((n + 1 - size) / n), 1.0
    for each, log in zip(ranks[4:], logs[4:], strict=True):
        said = np.corrcoef(each, size)[0, 1] if np.ptp(each) else 0
        weight = max(max(said, 0) ** 2, 0.01)
        total, weights = total + weight * log, weights + weight
    return -total / weights


def test_anchored_is_its_definition():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(25, 8)) + np.linspace(0, 3, 25)[:, None] * rng.normal(size=8)
    scores[:, 6] = 1.0  # tells nothing apart
    scores[3, :4] = scores[7, :4]
    higher = (True, True, True, True, False, True, True, False)
    found = ranking.anchored(scores, higher)
    np.testing.assert_allclose(found, by_hand(scores, higher), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda s: ranking.anchored(s, higher))(scores), found, 1e-5)
    few = ranking.anchored(scores[:, :3], higher[:3])
    order = ranking.log_rank(scores[:, :3], higher[:3])
    assert np.argsort(few, kind="stable").tolist() == np.argsort(order, kind="stable").tolist()
    scores[5, 4] = np.nan
    assert ranking.anchored(scores, higher).argmax() == 5
