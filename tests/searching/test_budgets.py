"""Budgets: rejected before scoring, counted, never returned."""

import itertools
import time

import jax
import numpy as np
import pytest

from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.scorers import make_scorer
from saboc_jax.searchers import SEARCHERS, make_searcher
from saboc_jax.searching.budgets import Budget, budget_check
from saboc_jax.searching.result import evaluations
from saboc_jax.searching.run import run_search
from saboc_jax.spaces import make_space
from saboc_jax.spaces.darts import cells as darts_cells
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.types import Batch

KEY = jax.random.key(0)
RANDOM = ("evolution", "random", "local", "reinforce", "aging_evolution", "exhaustive")


@pytest.fixture(scope="module")
def space():
    return make_space("nas_bench_201", channels=2, num_cells=1, image_shape=(8, 8, 1))


def make(space, name="params"):
    empty = Batch(np.zeros((1, 8, 8, 1), np.float32), np.zeros(1, int))
    return Evaluator(Runner(space, make_scorer(name, space), Draws([KEY], [empty])))


def limits(space):
    """A third of all cells fits."""
    costs = np.array([space.cost(np.array(a)) for a in itertools.product(range(5), repeat=6)])
    return Budget(*np.quantile(costs, 0.4, axis=0).astype(int).tolist())


def options(name):
    small = {"population_size": 8} if "evolution" in name else {}
    small |= {"tournament": 4} if name == "aging_evolution" else {}
    return {"max_evaluations": 60, **small}


@pytest.mark.parametrize("name", RANDOM)
def test_candidates_over_budget_are_rejected_counted_and_not_returned(space, name):
    allows, budget = budget_check(space, limits(space)), limits(space)
    evaluator = make(space)
    searcher = SEARCHERS[name](space.choices, (True,), **options(name))
    found = run_search(searcher, evaluator, KEY, allows=allows)
    masks = np.concatenate([masks for masks, _ in found.history])
    scores = np.concatenate([scores for _, scores in found.history])[:, 0, 0]
    over = np.array([bool(budget.exceeded_by(space.cost(a))) for a in masks.argmax(-1)])
    counts = evaluator.counts
    assert found.rejected == over.sum() > 0
    assert np.isnan(scores[over]).all()
    assert counts.scored + counts.served + counts.disconnected == (~over).sum() + 1
    assert not budget.exceeded_by(space.cost(found.arch))
    assert evaluations(found.history) == 60
    inside = np.flatnonzero(~over & np.isfinite(scores))
    if "evolution" not in name:  # which keeps a population, not everything
        assert space.cost(found.arch).params == max(scores[inside])


@pytest.mark.parametrize("quantity", ["params", "macs", "depth"])
def test_pruning_ends_within_the_budget_whatever_the_scores_like(space, quantity):
    # The scorer likes what is expensive, so without a budget it ends with 3x3 convolutions.
    free = make_searcher("pruning", space, (True,))
    whole = run_search(free, make(space), KEY)
    assert set(whole.arch) == {3}
    limit = getattr(limits(space), quantity)
    budget = Budget(**{quantity: limit})
    allows = budget_check(space, budget)
    searcher = make_searcher("pruning", space, (True,), allows=allows)
    found = run_search(searcher, make(space), KEY, allows=allows)
    cost = getattr(space.cost(found.arch), quantity)
    assert cost <= limit < getattr(space.cost(whole.arch), quantity)
    assert found.rejected > 0
    assert [len(masks) for masks, _ in found.history] == [25, 19, 13]


def test_a_supernet_is_within_budget_as_long_as_a_member_is(space):
    rng = np.random.default_rng(0)
    budget = limits(space)
    allows = budget_check(space, budget)
    verdicts = set()
    for _ in range(60):
        mask = rng.random((6, 5)) < 0.3
        mask[np.arange(6), rng.integers(0, 5, 6)] = True
        members = itertools.product(*map(np.flatnonzero, mask))
        fits = any(not budget.exceeded_by(space.cost(np.array(arch))) for arch in members)
        assert allows(mask) == fits
        verdicts.add(fits)
    assert verdicts == {True, False}


def few_options(rng):
    """A mask of DARTS with 64 members, and these."""
    choices = np.array(darts_cells.CHOICES)
    mask = architecture_to_mask(rng.integers(0, choices), 10)
    for decision in rng.choice(np.flatnonzero(choices > 1), 6, replace=False):
        mask[decision, rng.choice(np.flatnonzero(~mask[decision, : choices[decision]]))] = True
    return mask, [np.array(m) for m in itertools.product(*map(np.flatnonzero, mask))]


@pytest.mark.parametrize("quantity", ["params", "macs", "depth"])
def test_darts_knows_its_cheapest_members(quantity):
    darts = make_space("darts", channels=6, num_cells=1, image_shape=(8, 8, 1))
    rng = np.random.default_rng(1)
    for _ in range(12):
        mask, members = few_options(rng)
        costs = [getattr(darts.cost(arch), quantity) for arch in members]
        arch = darts.costs.cheapest(mask, quantity)
        assert mask[np.arange(36), arch].all()
        least, found = min(costs), getattr(darts.cost(arch), quantity)
        assert found == least or (quantity == "depth" and found <= least + 2)
        assert budget_check(darts, Budget(**{quantity: found}))(mask)
        if least > getattr(darts.cost(np.zeros(36, int)), quantity):
            assert not budget_check(darts, Budget(**{quantity: least - 1}))(mask)


def test_pruning_of_darts_ends_within_the_budget():
    darts = make_space("darts", channels=2, num_cells=1, image_shape=(8, 8, 1))
    budget = Budget(params=900, macs=30_000)
    allows = budget_check(darts, budget)
    searcher = make_searcher("pruning", darts, (True,), prune_number=3, allows=allows)
    found = run_search(searcher, make(darts, "random"), KEY, allows=allows)
    free = make_searcher("pruning", darts, (True,), prune_number=3)
    assert budget.exceeded_by(darts.cost(run_search(free, make(darts, "random"), KEY).arch))
    assert not budget.exceeded_by(darts.cost(found.arch))


def test_impossible_budgets_are_refused_with_numbers(space):
    with pytest.raises(ValueError, match=r"params \d+ > 10;"):
        budget_check(space, Budget(params=10))
    smallest = space.cost(np.zeros(6, int)).params
    allows = budget_check(space, Budget(params=smallest))
    searcher = SEARCHERS["random"](space.choices, (True,), max_evaluations=3)
    with pytest.raises(ValueError, match=r"nothing to return: 3 done, 3 of them over budget"):
        run_search(searcher, make(space), jax.random.key(1), allows=allows)


def test_a_time_budget_stops_and_the_same_run_goes_on_to_the_same_bits(space):
    searcher = SEARCHERS["random"](space.choices, (True,), max_evaluations=40, batch=4)
    whole = run_search(searcher, make(space), KEY)
    slow = make(space)
    slow.on_score = lambda: time.sleep(0.1)
    stopped = run_search(searcher, slow, KEY, time_budget=1.5)
    assert stopped.stopped == "time_budget"
    count = evaluations(stopped.history)
    assert 4 <= count < 40
    assert slow.on_score is not None
    resumed = run_search(searcher, slow, KEY)
    assert resumed.stopped is None
    assert resumed.arch.tolist() == whole.arch.tolist()
    for (masks, scores), (ours, theirs) in zip(whole.history, resumed.history, strict=True):
        np.testing.assert_array_equal(masks, ours)
        np.testing.assert_array_equal(scores, theirs)
    for (masks, scores), (ours, theirs) in zip(whole.history, stopped.history, strict=False):
        np.testing.assert_array_equal(masks, ours)
        np.testing.assert_array_equal(scores, theirs)


def test_pruning_stopped_by_a_limit_has_no_architecture_and_says_so(space):
    searcher = make_searcher("pruning", space, (True,))
    with pytest.raises(ValueError, match="stopped by max_evaluations after 25 evaluations"):
        run_search(searcher, make(space), KEY, max_evaluations=30)


def test_a_search_between_objectives_is_told_the_cost(space):
    told = []
    searcher = SEARCHERS["random"](space.choices, (True, False), max_evaluations=12, batch=6)
    spy = searcher._replace(
        tell=lambda state, masks, scores: told.append(scores) or searcher.tell(state, masks, scores)
    )
    depth = lambda masks: np.array([[space.cost(a).depth] for a in masks.argmax(-1)])  # noqa: E731
    found = run_search(spy, make(space), KEY, costs=depth)
    for (masks, scores), seen in zip(found.history, told, strict=True):
        assert seen.shape == (6, 1, 2)
        np.testing.assert_array_equal(seen[:, :, :1], scores)
        np.testing.assert_array_equal(seen[:, 0, 1:], depth(masks))


def test_mask_of_one_option_is_judged_by_its_own_cost(space):
    arch = np.array([3, 3, 3, 3, 3, 3])
    budget = Budget(params=space.cost(arch).params)
    assert budget_check(space, budget)(architecture_to_mask(arch, 5))
    tighter = Budget(params=budget.params - 1)
    assert not budget_check(space, tighter)(architecture_to_mask(arch, 5))


def test_latency_is_measured_of_what_other_limits_allow(space):
    asked = []
    latency = lambda arch: asked.append(arch.tolist()) or float(arch.sum())  # noqa: E731
    dear = space.cost(np.array([3] * 6)).params
    allows = budget_check(space, Budget(params=dear - 1, latency_ms=6.5), latency)
    asked.clear()
    verdicts = {n: allows(architecture_to_mask(np.array([n] * 6), 5)) for n in (1, 2, 3)}
    assert verdicts == {1: True, 2: False, 3: False}
    assert asked == [[1] * 6, [2] * 6]
    with pytest.raises(ValueError, match="latency_ms=1 without"):
        budget_check(space, Budget(latency_ms=1))
