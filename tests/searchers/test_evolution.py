import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from saboc_jax.searchers import base, population
from saboc_jax.searchers.evolution import aging_evolution, evolution

CHOICES = (4, 3, 5, 1, 4)
DIRECTIONS = (False, True, False)
KEY = jax.random.key(11)


def costs_of(scores):
    costs = np.where(DIRECTIONS, -1, 1) * np.asarray(scores, dtype=np.float64)
    return np.where(np.isfinite(costs), costs, np.inf)


def best_index(scores):
    costs = costs_of(scores)
    ranks = scipy.stats.rankdata(costs, axis=0)
    costs[np.isnan(scores).any(1)] = np.inf  # NaN in one metric: last by all
    return np.lexsort((ranks[:, 0], ranks[:, 1], scipy.stats.rankdata(costs, axis=0).sum(1)))[0]


class ReferencePopulation:
    """Decision D17 on a Python list of (architecture, scores), oldest first."""

    def __init__(self, size, removal, protect_best, unique):
        self.size, self.removal = size, removal
        self.protect_best, self.unique = protect_best, unique
        self.members = []

    def enter(self, arch, scores):
        if not np.isfinite(scores).any():
            return
        if self.unique and any(arch == member for member, _ in self.members):
            return
        self.members.append((arch, scores))
        if len(self.members) > self.size:
            self.remove()

    def remove(self):
        everyone = list(range(len(self.members)))
        costs = costs_of([scores for _, scores in self.members])
        if self.protect_best:
            everyone.remove(best_index([scores for _, scores in self.members]))
        gone = []
        for metric in range(3):
            candidates = [i for i in everyone if self.removal == "set" or i not in gone]
            gone.append(max(candidates, key=lambda i: (costs[i, metric], -i)))
        self.members = [m for i, m in enumerate(self.members) if i not in gone]


def random_scores(rng, n):
    scores = rng.normal(size=(n, 1, 3)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    scores[rng.random(n) < 0.1] = np.nan
    return scores


@pytest.mark.parametrize(
    ("removal", "protect_best", "unique"),
    [("distinct", False, False), ("distinct", True, True), ("set", True, False)],
)
def test_evolution_keeps_whom_the_definition_keeps(removal, protect_best, unique):
    searcher = evolution(
        CHOICES,
        DIRECTIONS,
        max_evaluations=90,
        population_size=10,
        removal=removal,
        protect_best=protect_best,
        unique=unique,
    )
    reference = ReferencePopulation(10, removal, protect_best, unique)
    rng, state, sizes, step = np.random.default_rng(0), searcher.init(KEY), [], 0
    while not searcher.done(state):
        masks, state = searcher.ask(jax.random.fold_in(KEY, step), state)
        scores = random_scores(rng, len(masks))
        state = searcher.tell(state, masks, scores)
        for arch, row in zip(np.asarray(masks).argmax(-1).tolist(), scores[:, 0], strict=True):
            reference.enter(arch, row)
        archs, kept = population.members(state.inner)
        assert archs.tolist() == [arch for arch, _ in reference.members]
        np.testing.assert_array_equal(kept, [scores for _, scores in reference.members])
        sizes.append(len(archs))
        step += 1
    assert max(sizes) == 10
    if removal == "distinct":
        assert min(sizes[10:]) == 8  # 11 members less three.
    # `best` ranks a set: a repeated architecture counts once.
    seen, rows = set(), []
    for i, (arch, _) in enumerate(reference.members):
        if tuple(arch) not in seen:
            rows.append(i)
            seen.add(tuple(arch))
    best = rows[best_index([reference.members[i][1] for i in rows])]
    assert searcher.best(state).tolist() == reference.members[best][0]


def a_population(scores):
    members = population.empty(len(scores), 2, 3)
    for i, row in enumerate(scores):
        members = population.add(members, jnp.array([i, 0]), jnp.array(row, float))
    return members


def test_removal_of_distinct_members_goes_to_the_next_worst_and_of_a_set_does_not():
    # Lower, higher, lower is better: member 0 is the worst by all three, 1 is next by all.
    members = a_population([[9, 0, 9], [8, 1, 8], [1, 9, 7], [2, 8, 1], [3, 7, 2]])
    distinct = population.remove_worst(members, DIRECTIONS, removal="distinct")
    assert distinct.alive.tolist() == [False, False, False, True, True]
    union = population.remove_worst(members, DIRECTIONS, removal="set")
    assert union.alive.tolist() == [False, True, True, True, True]
    protected = jnp.array([True, False, False, False, False])
    kept = population.remove_worst(members, DIRECTIONS, removal="set", protected=protected)
    assert kept.alive.tolist() == [True, False, True, True, True]


def test_what_is_not_finite_leaves_first_and_of_equals_the_oldest():
    members = a_population([[1, 5, 1], [7, 5, 1], [np.nan, 5, 1], [-np.inf, 5, 1], [1, 5, 1]])
    left = population.remove_worst(members, DIRECTIONS, removal="distinct")
    # By the first metric 2; then all tie: the oldest, 0, then 1.
    assert left.alive.tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("mutations", [1, 2])
def test_from_a_start_small_populations_mutate_the_start_once_as_zen_nas(mutations):
    start = [3, 2, 4, 0, 1]
    searcher = evolution(
        CHOICES,
        DIRECTIONS,
        start=start,
        mutations=mutations,
        max_evaluations=120,
        population_size=20,
    )
    rng, state, later = np.random.default_rng(1), searcher.init(KEY), []
    for step in range(120):
        parents, _ = population.members(state.inner)
        masks, state = searcher.ask(jax.random.fold_in(KEY, step), state)
        (child,) = np.asarray(masks).argmax(-1)
        changed_from_start = (child != start).sum()
        if step == 0:
            assert changed_from_start == 0
        elif len(parents) <= 10:
            assert changed_from_start == 1
        else:
            later.append((child != parents).sum(1).min())
        scores = random_scores(rng, 1)
        if step < 4:
            scores[:] = np.nan  # The start itself may be rejected.
        state = searcher.tell(state, masks, scores)
    # Two changes of one decision can amount to one change or none.
    assert set(later) <= set(range(mutations + 1))
    assert max(later) == mutations


def test_parents_are_uniform_over_members():
    members = a_population(np.ones((6, 3)))
    members = members._replace(alive=jnp.array([True, False, True, True, False, True]))
    draws = jax.vmap(population.random_member, (0, None))(jax.random.split(KEY, 2000), members)
    counts = np.bincount(np.asarray(draws)[:, 0], minlength=6)
    assert counts[1] == counts[4] == 0
    assert np.abs(counts[[0, 2, 3, 5]] - 500).max() < 4 * np.sqrt(2000 * 0.25 * 0.75)


def test_a_tournament_draws_without_replacement_and_takes_the_best():
    # Member i is better than all later ones; the winner of s out of n is i with probability
    # C(n - 1 - i, s - 1) / C(n, s).
    members = a_population([[i, -i, i] for i in range(5)])
    draw = jax.vmap(lambda key: population.tournament(key, members, 3, DIRECTIONS, mean_rank)[0])
    counts = np.bincount(np.asarray(draw(jax.random.split(KEY, 2000))), minlength=5)
    expected = 2000 * np.array([6, 3, 1, 0, 0]) / 10
    assert (np.abs(counts - expected) <= 4 * np.sqrt(expected * (1 - expected / 2000))).all()


def mean_rank(scores, higher_is_better):
    """A ranking that is not the default one."""
    return (scores * np.where(higher_is_better, -1, 1)).mean(axis=1)


def test_aging_evolution_forgets_the_oldest_and_breeds_the_best_of_all_in_a_full_tournament():
    searcher = aging_evolution(
        CHOICES, DIRECTIONS, max_evaluations=60, population_size=8, tournament=8
    )
    rng, state, entered, step = np.random.default_rng(2), searcher.init(KEY), [], 0
    while not searcher.done(state):
        masks, state = searcher.ask(jax.random.fold_in(KEY, step), state)
        archs = np.asarray(masks).argmax(-1)
        if step:
            parent = entered[-8:][best_index([scores for _, scores in entered[-8:]])][0]
            assert (archs[0] != parent).sum() == 1
        else:
            assert len(archs) == 8
        scores = random_scores(rng, len(archs))
        state = searcher.tell(state, masks, scores)
        entered += [
            (arch, row)
            for arch, row in zip(archs, scores[:, 0], strict=True)
            if np.isfinite(row).any()
        ]
        kept, _ = population.members(state.inner)
        np.testing.assert_array_equal(kept, [arch for arch, _ in entered[-8:]])
        step += 1


def test_mutation_changes_one_decision_uniformly():
    arch = jnp.array([1, 0, 4, 0, 2])
    keys = jax.random.split(KEY, 6000)
    children = np.asarray(jax.vmap(lambda key: base.mutate(key, arch, CHOICES))(keys))
    changed = children != np.asarray(arch)
    assert (changed.sum(1) == 1).all()
    assert (children < CHOICES).all()
    for decision, n in enumerate(CHOICES):
        options = children[changed[:, decision], decision]
        expected = 0 if n == 1 else 1500 / (n - 1)
        counts = np.delete(np.bincount(options, minlength=n), np.asarray(arch)[decision])
        assert (np.abs(counts - expected) <= 4 * np.sqrt(expected)).all()


def test_mutation_follows_the_weights_of_decisions():
    weights = (6.0, 3.0, 3.0, 2.0, 2.0, 2.0)
    keys = jax.random.split(KEY, 6000)
    arch = jnp.zeros(6, int)
    children = jax.vmap(lambda key: base.mutate(key, arch, (5,) * 6, weights))(keys)
    expected = 6000 * np.array(weights) / 18
    assert (np.abs((np.asarray(children) > 0).sum(0) - expected) < 4 * np.sqrt(expected)).all()


def test_a_mutation_of_ones_own_is_used():
    def last_option(key, arch):
        return arch.at[2].set(4)

    for factory in (evolution, aging_evolution):
        searcher = factory(
            CHOICES,
            (True,),
            population_size=4,
            mutate=last_option,
            start=[0] * 5,
            **({"tournament": 2} if factory is aging_evolution else {}),
        )
        masks, state = searcher.ask(KEY, searcher.init(KEY))
        state = searcher.tell(state, masks, np.ones((1, 1, 1)))
        masks, _ = searcher.ask(KEY, state)
        assert np.asarray(masks).argmax(-1).tolist() == [[0, 0, 4, 0, 0]]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="population_size=3; allowed: >= 4"):
        evolution(CHOICES, DIRECTIONS, population_size=3)
    with pytest.raises(ValueError, match="removal='oldest'"):
        evolution(CHOICES, DIRECTIONS, removal="oldest")
    with pytest.raises(ValueError, match="start="):
        evolution(CHOICES, DIRECTIONS, start=[0, 0, 5, 0, 0])
    with pytest.raises(ValueError, match="start="):
        aging_evolution(CHOICES, DIRECTIONS, start=[0, 0])
    with pytest.raises(ValueError, match="tournament=9"):
        aging_evolution(CHOICES, DIRECTIONS, population_size=8, tournament=9)
