import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saboc_jax.searchers import base
from saboc_jax.searchers.pruning import (
    improvements,
    one_by_one,
    pruning,
    removal_masks,
    removal_order,
    take_by_quota,
)
from saboc_jax.spaces.darts import cells as darts_cells
from saboc_jax.statistics.ranking import AGGREGATIONS, borda
from saboc_jax.types import Removals

NAS_BENCH_201 = (5,) * 6
NAMES = (("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),) * 6
DIRECTIONS = (False, True, False)
KEY = jax.random.key(0)


def run(searcher, score, key=KEY):
    """All rounds: [(masks, scores)], and the last state."""
    state, history = searcher.init(key), []
    while not searcher.done(state):
        masks, state = searcher.ask(jax.random.fold_in(key, len(history)), state)
        scores = np.array([score(np.asarray(mask)) for mask in masks])
        state = searcher.tell(state, masks, scores)
        history.append((np.asarray(masks), scores))
    return history, state


def noisy_metrics(choices, seed, metrics=3, repeats=2):
    """Metrics of a supernet: the mean worth of its active options, times an interaction."""
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=(repeats, metrics, len(choices), max(choices)))

    def score(mask):
        per_edge = (worth * mask).sum(-1) / mask.sum(-1)
        return 3 + per_edge.sum(-1) + 0.3 * per_edge[..., 0] * per_edge[..., -1]

    return score


def reference(active, score, higher_is_better, prune_number):
    """Definitions 4.1 with D15, with dictionaries and loops; active: list of sets of options."""

    def measure(edges):
        mask = np.zeros((len(edges), 1 + max(itertools.chain(*edges))), dtype=bool)
        for edge, options in enumerate(edges):
            mask[edge, sorted(options)] = True
        return score(mask)

    active = [set(options) for options in active]
    while any(len(options) > 1 for options in active):
        before = measure(active)
        deltas = {}
        for edge, options in enumerate(active):
            for op in options if len(options) > 1 else ():
                after = measure([o - {op} if e == edge else o for e, o in enumerate(active)])
                deltas[edge, op] = [
                    sum(
                        (1 if higher else -1) * (a[j] - b[j]) / abs(b[j])
                        for b, a in zip(before, after, strict=True)
                    )
                    / len(before)
                    for j, higher in enumerate(higher_is_better)
                ]
        total = {
            c: sum(1 + sum(d[j] > deltas[c][j] for d in deltas.values()) for j in range(3))
            for c in deltas
        }
        quota = {e: min(prune_number, len(o) - 1) for e, o in enumerate(active)}
        # Equal sums fall to the second metric, then to the first, then to the index.
        walk = sorted((total[c], -d[1], -d[0], *c) for c, d in deltas.items())
        for *_, edge, op in walk:
            if quota[edge]:
                quota[edge] -= 1
                active[edge].remove(op)
    return [options.pop() for options in active]


@pytest.mark.parametrize("choices", [(3, 3, 3), (2, 4, 1, 3)])
@pytest.mark.parametrize("prune_number", [1, 2, 9])
@pytest.mark.parametrize("seed", range(4))
def test_pruning_is_the_procedure_of_the_definition(choices, prune_number, seed):
    wide = noisy_metrics(choices, seed)

    def score(mask):
        padded = np.zeros((len(choices), max(choices)), dtype=bool)
        padded[:, : mask.shape[1]] = mask
        return wide(padded)

    searcher = pruning(choices, DIRECTIONS, prune_number=prune_number)
    _, state = run(searcher, score)
    expected = reference([range(n) for n in choices], score, DIRECTIONS, prune_number)
    assert searcher.best(state).tolist() == expected


def test_nas_bench_201_takes_three_rounds_and_57_evaluations():
    searcher = pruning(NAS_BENCH_201, DIRECTIONS, initially_pruned=("none",), option_names=NAMES)
    history, state = run(searcher, noisy_metrics(NAS_BENCH_201, 0))
    assert [len(masks) for masks, _ in history] == [1 + 24, 1 + 18, 1 + 12]
    assert int(state.evaluations) == 57
    assert int(state.round) == 3
    assert not np.asarray(state.active)[:, 0].any()
    removed_in = np.asarray(state.removed_in)
    assert (np.sort(removed_in, axis=1) == [-1, 0, 1, 2, 3]).all()
    for before, after in itertools.pairwise(masks[0] for masks, _ in history):
        assert (before.sum(1) - after.sum(1) == 1).all()


def test_masks_are_the_supernet_and_then_one_option_less():
    active = np.array([[True, True, False], [False, True, False], [True, True, True]])
    masks = removal_masks(active)
    assert masks.shape == (1 + 2 + 3, 3, 3)
    np.testing.assert_array_equal(masks[0], active)
    missing = [tuple(np.argwhere(active & ~mask)[0]) for mask in masks[1:]]
    assert missing == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_improvement_is_positive_where_removal_helps_whatever_the_sign_of_the_metric(higher, sign):
    before, change = 4.0 * sign, 1.0 if higher else -1.0
    scores = np.array([before, before + change, before - change])[:, None, None]
    np.testing.assert_allclose(improvements(scores, (higher,))[:, 0], [0.25, -0.25])


def test_improvements_average_over_repeats():
    scores = np.array([[[2.0], [10.0]], [[1.0], [5.0]], [[3.0], [10.0]]])
    np.testing.assert_allclose(improvements(scores, (False,))[:, 0], [0.5, -0.25])


def test_rounding_makes_near_equal_removals_tie():
    scores = np.array([1.0, 0.87651, 0.87649, 0.5])[:, None, None]
    assert improvements(scores, (False,), rounding=3)[:, 0].tolist() == [0.123, 0.124, 0.5]
    repeats = np.array([[1.0, 1.0], [0.8769, 0.8765], [0.5, 0.5]])[..., None]
    # The deltas 0.1231 and 0.1235 become 0.123 and 0.123 or 0.124; their mean has 3 digits.
    (mean, _) = improvements(repeats, (False,), rounding=3)[:, 0]
    assert mean == float(f"{np.mean(np.round([0.1231, 0.1235], 3)):.3g}")


def test_a_supernet_that_is_not_finite_leaves_the_order_to_what_comes_after():
    scores = np.array([np.inf, 30.0, 10.0, np.nan, 20.0])[:, None, None]
    delta = improvements(scores, (False,))
    assert removal_order(delta, borda).tolist() == [1, 3, 0, 2]
    assert np.isnan(improvements(np.full((3, 1, 1), np.nan), (True,))).all()


def test_nan_puts_a_removal_last_and_an_infinity_only_by_its_metric():
    best, nan, infinite, worst = [9.0, 9.0], [8.0, np.nan], [8.0, -np.inf], [1.0, 1.0]
    scores = np.array([[2.0, 2.0], best, nan, infinite, worst])[:, None]
    delta = improvements(scores, (True, True))
    assert delta[2, 1] == -np.inf and np.isnan(delta[1, 1])
    # By the first metric: 1, last, 2, 3; by the second, where the two are equal: 1, 3.5, 3.5, 2.
    np.testing.assert_array_equal(borda(delta, (True, True)), [2, 7.5, 5.5, 5])


def test_a_metric_that_starts_at_zero_does_not_overflow():
    scores = np.array([0.0, -1e7, 1e7])[:, None, None]
    assert removal_order(improvements(scores, (False,)), borda).tolist() == [0, 1]


def test_the_walk_takes_the_quota_of_each_group():
    order, groups = np.array([4, 0, 1, 3, 2]), np.array([0, 0, 0, 1, 1])
    assert take_by_quota(order, groups, np.array([2, 1])).tolist() == [4, 0, 1]
    assert take_by_quota(order, groups, np.array([0, 2])).tolist() == [4, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_option_whose_removal_breaks_the_network_stays(bad):
    metrics = noisy_metrics((4, 4), 1)

    def score(mask):
        return metrics(mask) if mask[1, 2] and mask[0, 3] else np.full((2, 3), bad)

    searcher = pruning((4, 4), DIRECTIONS)
    assert searcher.best(run(searcher, score)[1]).tolist() == [3, 2]


def test_all_candidates_rejected_or_dead_still_ends():
    searcher = pruning((3, 2), DIRECTIONS)
    _, state = run(searcher, lambda mask: np.full((1, 3), np.nan))
    # Everything ties: the lowest index goes first.
    assert searcher.best(state).tolist() == [2, 1]


@settings(max_examples=25, deadline=None)
@given(
    choices=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    prune_number=st.integers(1, 3),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_any_start_ends_with_one_allowed_option_each(choices, prune_number, seed, data):
    pruned = np.zeros((len(choices), max(choices)), dtype=bool)
    for row, n in zip(pruned, choices, strict=True):
        row[data.draw(st.lists(st.integers(0, n - 1), max_size=n - 1))] = True
    searcher = pruning(choices, DIRECTIONS, initially_pruned=pruned, prune_number=prune_number)
    history, state = run(searcher, noisy_metrics(choices, seed))
    best = searcher.best(state)
    assert (best < np.array(choices)).all()
    assert not pruned[np.arange(len(choices)), best].any()
    start = (base.available_options(choices) & ~pruned).sum(1)
    assert len(history) == max(math.ceil((n - 1) / prune_number) for n in start)
    assert sum(len(masks) for masks, _ in history) == int(state.evaluations)


def test_a_cold_temperature_is_the_deterministic_search():
    metrics = noisy_metrics((4, 4, 4), 5)
    plain = pruning((4, 4, 4), DIRECTIONS)
    cold = pruning((4, 4, 4), DIRECTIONS, temperature=1e-3)
    # Noise moves a rank sum by less than the smallest difference of two, unless they tie.
    assert plain.best(run(plain, metrics)[1]).tolist() == cold.best(run(cold, metrics)[1]).tolist()


def test_temperature_draws_from_the_softmax_of_the_ranks():
    delta = np.array([[3.0], [2.0], [1.0]])
    draws = 4000
    noise = np.asarray(jax.random.gumbel(KEY, (draws, 3)), dtype=np.float64)
    first = np.array([removal_order(delta, borda, 2.0, n)[0] for n in noise])
    weights = np.exp(-np.array([1.0, 2.0, 3.0]) / 2.0)
    expected = weights / weights.sum()
    shares = np.bincount(first, minlength=3) / draws
    tolerance = 4 * np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(shares - expected) < tolerance).all()


def test_temperature_is_reproducible_and_depends_on_the_key():
    metrics = noisy_metrics((4, 4, 4, 4), 2)
    searcher = pruning((4, 4, 4, 4), DIRECTIONS, temperature=20.0)
    found = [
        searcher.best(run(searcher, metrics, jax.random.key(seed))[1]).tolist()
        for seed in (0, 0, 1, 2, 3)
    ]
    assert found[0] == found[1]
    assert len({tuple(arch) for arch in found}) > 1


def test_the_first_metric_alone_prunes_greedily():
    worth = np.array([[1.0, 5.0, 3.0], [9.0, 2.0, 4.0]])

    def score(mask):
        return np.array([[(worth * mask).sum() / mask.sum(), 0.0, 0.0]])

    searcher = pruning((3, 3), (True, False, False), ranking=AGGREGATIONS["first"])
    assert searcher.best(run(searcher, score)[1]).tolist() == [1, 0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="option_names"):
        pruning((2, 2), DIRECTIONS, initially_pruned=("none",))
    with pytest.raises(ValueError, match=r"\['nothing'\] do not exist"):
        pruning(NAS_BENCH_201, DIRECTIONS, initially_pruned=("nothing",), option_names=NAMES)
    with pytest.raises(ValueError, match=r"allowed: \(2, 3\)"):
        pruning((3, 2), DIRECTIONS, initially_pruned=np.zeros((3, 2), dtype=bool))
    with pytest.raises(ValueError, match=r"decisions \[1\]"):
        pruning((2, 1), DIRECTIONS, initially_pruned=np.array([[0, 0], [1, 0]], dtype=bool))
    with pytest.raises(ValueError, match="prune_number=0"):
        pruning((2, 2), DIRECTIONS, prune_number=0)
    with pytest.raises(ValueError, match=r"choices=\(2, 0\)"):
        pruning((2, 0), DIRECTIONS)
    searcher = pruning((2, 2), DIRECTIONS)
    masks, state = searcher.ask(KEY, searcher.init(KEY))
    with pytest.raises(ValueError, match=r"\[0, 1\] still have several options"):
        searcher.best(state)
    with pytest.raises(ValueError, match=r"allowed: \(5, repeats, 3\)"):
        searcher.tell(state, masks, np.zeros((5, 1, 2)))
    with pytest.raises(ValueError, match="not those"):
        searcher.tell(state, masks[1:], np.zeros((4, 1, 3)))


def test_darts_settles_operations_before_inputs_and_keeps_the_best_two_of_each_node():
    worth = np.random.default_rng(0).normal(size=(2, darts_cells.NUM_EDGES))

    def score(mask):
        kept = darts_cells.kept_edges(mask)
        return np.array([[100 - (worth * kept).sum() + mask[:28, :8].sum()]])

    searcher = pruning(
        darts_cells.CHOICES,
        (False,),
        initially_pruned=("none",),
        option_names=darts_cells.OPTION_NAMES,
        prune_number=3,
        ranking=AGGREGATIONS["first"],
        removals=darts_cells.removals(),
    )
    history, state = run(searcher, score)
    # 7 operations an edge, then 4; then the 3, 4 and 5 inputs of three nodes of two cells.
    assert [len(masks) for masks, _ in history] == [1 + 28 * 7, 1 + 28 * 4, 1 + 2 * (3 + 4 + 5)]
    for masks, _ in history[:2]:
        assert masks[:, 28:].sum() == len(masks) * 2 * (1 + 3 + 6 + 10)
    best = searcher.best(state)
    for cell in (0, 1):
        for node, pairs in enumerate(darts_cells.PAIRS):
            edges = [darts_cells.edge_number(source, 2 + node) for source in range(2 + node)]
            top = np.argsort(-worth[cell, edges])[:2]
            assert set(pairs[best[28 + 4 * cell + node]]) == set(top.tolist())


def test_bundles_that_cannot_part_options_are_refused():
    phases, bundles = one_by_one(2, 3)
    bundles[1, 0] = bundles[1, 1] = (True, True, False)
    with pytest.raises(ValueError, match=r"decisions \[1\]"):
        pruning((3, 3), (True,), removals=Removals(phases, bundles))
    with pytest.raises(ValueError, match=r"shapes"):
        pruning((3, 2, 2), (True,), removals=Removals(phases, bundles))
