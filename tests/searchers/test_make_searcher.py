"""`make_searcher`: by name, with what the space knows; the number of candidates it plans."""

import jax
import numpy as np
import pytest

from saboc_jax.searchers import SEARCHERS, make_searcher
from saboc_jax.spaces import make_space

DIRECTIONS = (True, False)


def test_a_searcher_is_made_by_name_with_what_the_space_knows():
    space = make_space("nas_bench_201", channels=2, num_cells=1)
    pruning = make_searcher("pruning", space, DIRECTIONS)
    assert pruning.planned() == 57  # without the option none
    whole = make_searcher("pruning", space, DIRECTIONS, initially_pruned=())
    assert whole.planned() > 57
    resnets = make_space("resnet", slots=6, max_width=128)
    evolution = make_searcher("evolution", resnets, (True,), max_evaluations=3)
    masks, _ = evolution.ask(jax.random.key(0), evolution.init(jax.random.key(0)))
    start = resnets.hints.evolution()["start"]
    assert np.asarray(masks)[0].argmax(1).tolist() == np.asarray(start).tolist()


@pytest.mark.parametrize("name", SEARCHERS)
def test_what_a_searcher_plans_is_what_it_asks_for(name):
    space = make_space("nas_bench_201", channels=2, num_cells=1)
    limit = None if name == "pruning" else 40
    searcher = make_searcher(name, space, DIRECTIONS, max_evaluations=limit)
    state, count, rng = searcher.init(jax.random.key(0)), 0, np.random.default_rng(0)
    while not searcher.done(state):
        masks, state = searcher.ask(jax.random.fold_in(jax.random.key(1), count), state)
        state = searcher.tell(state, masks, rng.normal(size=(len(masks), 1, len(DIRECTIONS))))
        count += len(masks)
    assert count == searcher.planned() == (limit or 57)


def test_pruning_within_a_budget_plans_no_number():
    space = make_space("nas_bench_201", channels=2, num_cells=1)
    assert make_searcher("pruning", space, DIRECTIONS, allows=lambda mask: True).planned is None


def test_a_mistaken_searcher_is_one_sentence():
    space = make_space("nas_bench_201", channels=2, num_cells=1)
    with pytest.raises(ValueError, match="searcher='prune'; allowed: pruning, reinforce"):
        make_searcher("prune", space, DIRECTIONS)
    with pytest.raises(ValueError, match=r"searcher 'random' has no option \['steps'\]; allowed"):
        make_searcher("random", space, DIRECTIONS, steps=1)
    with pytest.raises(ValueError, match="ranking='x'; allowed: borda"):
        make_searcher("random", space, DIRECTIONS, ranking="x")
