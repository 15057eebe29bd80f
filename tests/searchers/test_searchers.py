"""What every search method must do; a method added to the registry is tested here."""

import jax
import numpy as np
import pytest
from separable_problem import DIRECTIONS, optimum, run, separable, worth_of

from saboc_jax.searchers import SEARCHERS
from saboc_jax.statistics.ranking import borda

CHOICES = (5, 3, 5, 1, 4, 5)
KEY = jax.random.key(7)
# 151 is not a multiple of the batches.
OPTIONS = {
    "reinforce": {"max_evaluations": 151, "batch": 2, "learning_rate": 0.2},
    "evolution": {"max_evaluations": 151, "population_size": 12, "batch": 2},
    "aging_evolution": {
        "max_evaluations": 151,
        "population_size": 24,
        "tournament": 8,
        "batch": 2,
    },
    "local": {"max_evaluations": 151},
    "random": {"max_evaluations": 151, "batch": 100},
    "exhaustive": {"batch": 256},
}
# The supernet and every option that can go, in four rounds; all architectures.
EVALUATIONS = {"pruning": 1 + 22 + 1 + 17 + 1 + 11 + 1 + 6, "exhaustive": 1500}
RANDOM = sorted(set(SEARCHERS) - {"exhaustive", "pruning"})
every_searcher = pytest.mark.parametrize("name", SEARCHERS)


@pytest.fixture(scope="module")
def searchers():
    """One of each, so that each compiles once."""
    return {
        name: SEARCHERS[name](CHOICES, DIRECTIONS, **OPTIONS.get(name, {})) for name in SEARCHERS
    }


def saved_and_loaded(state, path):
    leaves, structure = jax.tree.flatten(state)
    np.savez(path, *leaves)
    with np.load(path) as arrays:
        return jax.tree.unflatten(structure, [arrays[f"arr_{i}"] for i in range(len(leaves))])


def assert_equal_states(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@every_searcher
def test_same_key_same_bits(searchers, name):
    asked, state, _ = run(searchers[name], separable(CHOICES), KEY)
    again, same, _ = run(searchers[name], separable(CHOICES), KEY)
    for a, b in zip(asked, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert_equal_states(state, same)


@pytest.mark.parametrize("name", RANDOM)
def test_other_key_other_candidates(searchers, name):
    runs = [run(searchers[name], separable(CHOICES), jax.random.key(s))[0] for s in range(4)]
    assert len({b"".join(masks.tobytes() for masks in asked) for asked in runs}) > 1


@every_searcher
def test_state_survives_a_file_in_the_middle_of_a_search(searchers, name, tmp_path):
    score, searcher = separable(CHOICES), searchers[name]
    asked, state, _ = run(searcher, score, KEY)
    _, half, step = run(searcher, score, KEY, steps=len(asked) // 2)
    loaded = saved_and_loaded(half, tmp_path / "state.npz")
    rest, end, _ = run(searcher, score, KEY, state=loaded, step=step)
    assert len(rest) == len(asked) - len(asked) // 2
    assert_equal_states(end, state)
    assert searcher.best(end).tolist() == searcher.best(state).tolist()


@every_searcher
def test_number_of_evaluations_is_exact(searchers, name):
    asked, state, _ = run(searchers[name], separable(CHOICES), KEY)
    assert sum(map(len, asked)) == EVALUATIONS.get(name, 151)
    if name != "pruning":
        assert int(state.history.evaluations) == EVALUATIONS.get(name, 151)
        with pytest.raises(ValueError, match="evaluations are done"):
            searchers[name].ask(KEY, state)
        with pytest.raises(ValueError, match="0 evaluations remain"):
            searchers[name].tell(state, asked[0], separable(CHOICES)(asked[0]))


@every_searcher
def test_masks_have_options_that_exist_and_one_at_least_per_decision(searchers, name):
    exists = np.arange(max(CHOICES)) < np.array(CHOICES)[:, None]
    for masks in run(searchers[name], separable(CHOICES), KEY)[0]:
        assert masks.dtype == bool
        assert masks.shape[1:] == exists.shape
        assert not (masks & ~exists).any()
        assert masks.any(-1).all()
        assert name == "pruning" or (masks.sum(-1) == 1).all()


@every_searcher
def test_best_is_an_architecture_of_the_space(searchers, name):
    best = searchers[name].best(run(searchers[name], separable(CHOICES), KEY)[1])
    assert isinstance(best, np.ndarray)
    assert np.issubdtype(best.dtype, np.integer)
    assert best.shape == (len(CHOICES),)
    assert ((best >= 0) & (best < CHOICES)).all()


@every_searcher
def test_nothing_scored_nothing_found(searchers, name):
    with pytest.raises(ValueError, match=r"finite score|several options"):
        searchers[name].best(searchers[name].init(KEY))


@every_searcher
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_tolerated_and_never_chosen(searchers, name, bad):
    plain = separable(CHOICES)

    def score(masks):
        # Everything with option 0 in the first decision, or 1 in the second, is dead.
        scores = np.array(plain(masks))
        scores[masks[:, 0, 0]] = bad
        scores[masks[:, 1, 1], :, 1] = bad
        return scores

    asked, state, _ = run(searchers[name], lambda masks: score(np.asarray(masks)), KEY)
    assert sum(map(len, asked)) == EVALUATIONS.get(name, 151)
    best = searchers[name].best(state)
    assert best[0] != 0
    # One bad metric of three is a bad rank, not a ban; but here a better one is always seen.
    assert best[1] != 1


@every_searcher
def test_a_search_in_which_everything_is_rejected_ends(searchers, name):
    rejected = lambda masks: np.full((len(masks), 1, 3), np.nan)  # noqa: E731
    asked, state, _ = run(searchers[name], rejected, KEY)
    assert sum(map(len, asked)) == EVALUATIONS.get(name, 151)
    if name != "pruning":
        with pytest.raises(ValueError, match="finite score"):
            searchers[name].best(state)


@every_searcher
def test_repeats_are_averaged(searchers, name):
    plain = separable(CHOICES)

    def noisy(masks):
        scores, noise = plain(masks), np.array([[[1.0]], [[-1.0]]]) / 4
        return np.concatenate([scores + noise[i] for i in range(2)], axis=1)

    asked, _, _ = run(searchers[name], plain, KEY)
    again, _, _ = run(searchers[name], noisy, KEY)
    if name == "pruning":  # Each repeat has its own scale there.
        assert [len(a) for a in asked] == [len(a) for a in again]
    else:
        np.testing.assert_array_equal(np.concatenate(asked), np.concatenate(again))


@every_searcher
def test_scores_of_another_shape_are_refused(searchers, name):
    masks, state = searchers[name].ask(KEY, searchers[name].init(KEY))
    for shape in [(len(masks), 3), (len(masks), 1, 2), (len(masks) + 1, 1, 3), (len(masks), 0, 3)]:
        with pytest.raises(ValueError, match="scores have shape"):
            searchers[name].tell(state, masks, np.zeros(shape))


@every_searcher
def test_factories_refuse_what_makes_no_sense(name):
    with pytest.raises(ValueError, match=r"choices=\(\)"):
        SEARCHERS[name]((), DIRECTIONS)
    with pytest.raises(ValueError, match="higher_is_better"):
        SEARCHERS[name](CHOICES, ())
    if name != "pruning":
        with pytest.raises(ValueError, match="max_evaluations=0"):
            SEARCHERS[name](CHOICES, DIRECTIONS, max_evaluations=0)


@every_searcher
def test_the_ranking_decides_and_is_not_traced_again(searchers, name):
    """With the ranking turned round, a search minimises what it maximised."""
    traced = []

    def reverse(scores, higher_is_better):
        traced.append(isinstance(scores, jax.core.Tracer))
        return -borda(scores, higher_is_better)

    score = separable(CHOICES)
    reversed_search = SEARCHERS[name](CHOICES, DIRECTIONS, ranking=reverse, **OPTIONS.get(name, {}))
    found = [s.best(run(s, score, KEY)[1]) for s in (searchers[name], reversed_search)]
    good, poor = (worth_of(arch, CHOICES) for arch in found)
    assert good > poor + 1
    if "evolution" in name:
        before = sum(traced)
        run(reversed_search, score, jax.random.key(8))
        assert sum(traced) == before > 0


@pytest.mark.parametrize("name", sorted(set(SEARCHERS) - {"random"}))
def test_finds_the_optimum_of_an_easy_problem_better_than_random_search(searchers, name):
    """Mean shortfall over seeds, at 151 of 1500 architectures."""

    def shortfall(searcher):
        best = {s: searcher.best(run(searcher, separable(CHOICES, s), KEY)[1]) for s in range(6)}
        return np.mean(
            [
                worth_of(optimum(CHOICES, s), CHOICES, s) - worth_of(a, CHOICES, s)
                for s, a in best.items()
            ]
        )

    assert shortfall(searchers[name]) < 0.5 * shortfall(searchers["random"])
