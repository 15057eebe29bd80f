import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from saboc_jax.searchers import base
from saboc_jax.searchers.exhaustive import exhaustive
from saboc_jax.searchers.history import best_of
from saboc_jax.searchers.local import local
from saboc_jax.searchers.random import random
from saboc_jax.statistics.ranking import borda

CHOICES = (3, 2, 4, 1, 2)
DIRECTIONS = (False, True, False)
KEY = jax.random.key(5)


def test_neighbours_are_all_that_differ_in_one_decision():
    arch = (2, 1, 0, 0, 1)
    found = np.asarray(base.neighbours(jnp.array(arch), CHOICES)).tolist()
    everything = itertools.product(*map(range, CHOICES))
    expected = [
        list(other)
        for other in everything
        if sum(a != b for a, b in zip(arch, other, strict=True)) == 1
    ]
    assert sorted(found) == sorted(expected)


def test_architectures_and_masks_are_inverse():
    archs = np.array(list(itertools.product(*map(range, CHOICES))))
    masks = base.one_hot_masks(archs, 4)
    assert masks.shape == (48, 5, 4)
    assert (np.asarray(masks).sum(-1) == 1).all()
    np.testing.assert_array_equal(base.architectures_of(masks), archs)
    np.testing.assert_array_equal(base.architectures_of(np.asarray(masks)), archs)


def random_landscape(seed):
    """Metrics without any structure, which contradict each other; some are not finite."""
    table = np.random.default_rng(seed).normal(size=(*CHOICES, 1, 3)).astype(np.float32)
    table[np.random.default_rng(seed + 1).random(table.shape) < 0.1] = np.nan
    table[0, 0, 0] = np.nan  # Two architectures without any metric.
    return lambda masks: table[tuple(np.asarray(masks).argmax(-1).T)]


@pytest.mark.parametrize("seed", range(3))
def test_local_search_moves_to_the_best_neighbour_and_starts_anew_where_there_is_none(seed):
    score = random_landscape(seed)
    searcher = local(CHOICES, DIRECTIONS, max_evaluations=200)
    state, step, centre, centres, moves, starts = searcher.init(KEY), 0, None, set(), 0, 0
    while not searcher.done(state):
        masks, state = searcher.ask(jax.random.fold_in(KEY, step), state)
        scores, archs = score(masks), np.asarray(masks).argmax(-1)
        step += 1
        if centre is None:
            assert len(archs) == 1
            centres.add(tuple(archs[0]))
            starts += 1
            if np.isfinite(scores).any():
                centre, centre_scores = tuple(archs[0]), scores[0, 0]
        else:
            around = np.asarray(base.neighbours(jnp.array(centre), CHOICES))
            np.testing.assert_array_equal(archs, around[: len(archs)])
            assert len(archs) == 7 or int(state.history.evaluations) + len(archs) == 200
            everyone = np.concatenate([centre_scores[None], scores[:, 0]])
            costs = everyone * np.where(DIRECTIONS, -1, 1)
            costs = np.where(np.isfinite(costs), costs, np.inf)
            ranks = scipy.stats.rankdata(costs, axis=0)
            costs[np.isnan(everyone).any(1)] = np.inf  # NaN in one metric: last by all
            sums = scipy.stats.rankdata(costs, axis=0).sum(1)
            winner = np.lexsort((ranks[:, 0], ranks[:, 1], sums))[0]
            target = tuple(archs[winner - 1]) if winner else None
            if target is None or target in centres:
                centre = None
            else:
                centre, centre_scores = target, everyone[winner]
                centres.add(target)
                moves += 1
        state = searcher.tell(state, masks, scores)
    assert moves > 3
    assert starts > 3


def test_exhaustive_search_is_the_product_of_all_options():
    searcher = exhaustive(CHOICES, DIRECTIONS, batch=7)
    state, asked = searcher.init(KEY), []
    while not searcher.done(state):
        masks, state = searcher.ask(KEY, state)
        asked += np.asarray(masks).argmax(-1).tolist()
        state = searcher.tell(state, masks, np.zeros((len(masks), 1, 3)))
    everything = [list(arch) for arch in itertools.product(*map(range, CHOICES))]
    first = everything.index(asked[0])
    assert first > 0 and asked == everything[first:] + everything[:first]
    assert np.array_equal(searcher.ask(KEY, searcher.init(KEY))[0][0].argmax(-1), asked[0])


def test_exhaustive_search_can_stop_early_and_refuses_the_impossible():
    searcher = exhaustive((5,) * 6, DIRECTIONS, max_evaluations=10)
    assert searcher.ask(KEY, searcher.init(KEY))[0].shape == (10, 6, 5)
    with pytest.raises(ValueError, match="the space has 3656158440062976"):
        exhaustive((6,) * 20, DIRECTIONS)


def test_random_search_is_uniform():
    searcher = random(CHOICES, DIRECTIONS, max_evaluations=4800, batch=4800)
    masks, _ = searcher.ask(KEY, searcher.init(KEY))
    archs = np.asarray(masks).argmax(-1)
    places = np.ravel_multi_index(tuple(archs.T), CHOICES)
    # The statistic exceeds its 99.99 % quantile once in ten thousand keys; this is one key.
    observed = np.bincount(places, minlength=48)
    assert scipy.stats.chisquare(observed).pvalue > 1e-4


def test_the_best_of_a_history_is_that_of_a_set():
    a, b, c = [0, 0], [1, 0], [0, 1]
    scores = {0: [1.0, 3.0, 3.0], 1: [2.0, 1.0, 2.0], 2: [3.0, 2.0, 1.0]}
    visits = [0, 1, 2]
    archs = np.array([a, b, c])

    def best(rows):
        return best_of(
            archs[rows], np.array([scores[r] for r in rows]), (False,) * 3, borda
        ).tolist()

    assert best(visits) == b
    for repeated in ([0, 0, 0, 1, 2], [2, 2, 2, 2, 1, 0], [1, 0, 2, 1, 0]):
        assert best(repeated) == b


def test_architectures_without_any_finite_metric_are_never_the_best():
    archs, scores = np.array([[0], [1]]), np.array([[np.nan, np.inf], [np.nan, 5.0]])
    assert best_of(archs, scores, (False, False), borda).tolist() == [1]
    with pytest.raises(ValueError, match="none of 1 architectures"):
        best_of(archs[:1], scores[:1], (False, False), borda)


@pytest.mark.skipif(jax.config.jax_enable_x64, reason="with x64 the range is that of float64")
def test_scores_beyond_float32_count_as_not_finite():
    searcher = exhaustive((2,), (True,))
    masks, state = searcher.ask(KEY, searcher.init(KEY))
    scores = np.where(masks.argmax(-1) == 0, 1e60, 1.0)[..., None]
    state = searcher.tell(state, masks, scores)
    assert searcher.best(state).tolist() == [1]
