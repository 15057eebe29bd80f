"""The Pareto front of a search between scores and a cost."""

import itertools

import jax
import numpy as np

import saboc_jax as sj
from saboc_jax.searching.front import costs_of, pareto


def test_the_front_is_who_is_not_beaten_by_both_rank_and_cost():
    space = sj.make_space("nas_bench_201", channels=2, num_cells=1)
    scorer = sj.make_scorer("params", space)
    archs = np.array(jax.random.randint(jax.random.key(0), (20, 6), 0, 5))
    archs[1] = archs[0]  # counts once
    scores = np.random.default_rng(0).normal(size=(20, 2, 1))
    scores[1], scores[2] = scores[0], np.nan  # the third has no score
    masks = np.asarray(archs[..., None] == np.arange(5))
    front = pareto(space, scorer, [(masks[:8], scores[:8]), (masks[8:], scores[8:])], "macs")
    assert len(front.archs) == 18
    assert front.costs.tolist() == costs_of(space, "macs", front.archs).tolist()
    means = front.scores[:, 0]
    assert np.argsort(-means).tolist() == np.argsort(front.ranks).tolist()
    for i, on_front in enumerate(front.on_front):
        beaten = any(
            front.ranks[j] <= front.ranks[i]
            and front.costs[j] <= front.costs[i]
            and (front.ranks[j], front.costs[j]) != (front.ranks[i], front.costs[i])
            for j in range(18)
        )
        assert on_front != beaten
    ordered = front.costs[front.in_order()]
    assert all(a <= b for a, b in itertools.pairwise(ordered)) and len(ordered)
