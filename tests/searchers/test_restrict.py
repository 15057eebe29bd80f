"""A search without an option of each decision."""

import jax
import numpy as np
import pytest
from separable_problem import DIRECTIONS, run, separable, worth_of

from saboc_jax.searchers import SEARCHERS
from saboc_jax.searchers.restrict import without_options

CHOICES = (5, 3, 4, 2)
EXCLUDED = (0, 2, 1, 1)


@pytest.mark.parametrize("name", ["exhaustive", "random", "evolution", "local", "reinforce"])
def test_the_excluded_options_are_never_asked_for_and_the_best_of_the_rest_is_found(name):
    options = {"population_size": 8} if name == "evolution" else {}
    options |= {} if name == "exhaustive" else {"max_evaluations": 90}
    searcher = without_options(SEARCHERS[name], CHOICES, DIRECTIONS, excluded=EXCLUDED, **options)
    score = separable(CHOICES, seed=3)
    asked, state, _ = run(searcher, score, jax.random.key(0))
    masks = np.concatenate(asked)
    assert masks.shape[1:] == (4, 5)
    assert (masks.sum(-1) == 1).all()
    archs = masks.argmax(-1)
    assert (archs < CHOICES).all()
    assert not (archs == EXCLUDED).any()
    visited = {tuple(arch) for arch in archs.tolist()}
    best = searcher.best(state)
    assert tuple(best.tolist()) in visited
    if name != "evolution":
        assert worth_of(best, CHOICES, 3) == max(worth_of(a, CHOICES, 3) for a in visited)
    if name == "exhaustive":
        assert len(visited) == len(archs) == 4 * 2 * 3 * 1


@pytest.mark.parametrize("excluded", [(0, 0), (0, 0, 0, 2), (5, 0, 0, 0)])
def test_options_that_do_not_exist_are_refused(excluded):
    with pytest.raises(ValueError, match="allowed: an option of each"):
        without_options(SEARCHERS["random"], CHOICES, DIRECTIONS, excluded=excluded)
    with pytest.raises(ValueError, match="not the only one"):
        without_options(SEARCHERS["random"], (1, 2), DIRECTIONS, excluded=(0, 0))
