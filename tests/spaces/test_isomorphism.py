"""Representatives of isomorphic architectures."""

import jax
import numpy as np
import pytest

from saboc_jax.evaluation.evaluator import Evaluator
from saboc_jax.evaluation.jobs import Draws
from saboc_jax.evaluation.runner import Runner
from saboc_jax.scorers import make_scorer
from saboc_jax.spaces import isomorphism, make_space
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.nas_bench_201 import cells
from saboc_jax.types import Batch


@pytest.fixture(scope="module")
def space():
    return make_space("nas_bench_201", channels=2, num_cells=1, image_shape=(8, 8, 1))


@pytest.fixture(scope="module")
def representative(space):
    return isomorphism.representatives(space)


def test_a_representative_is_isomorphic_costs_the_same_and_stands_for_itself(space, representative):
    everyone = cells.all_architectures()
    chosen = {tuple(representative(arch).tolist()) for arch in everyone}
    assert len(chosen) == 7700
    assert {tuple(arch.tolist()) for arch in isomorphism.distinct(space, by_cost=True)} == chosen
    assert len(isomorphism.distinct(space)) == 6466
    for arch in everyone[::37]:
        other = representative(arch)
        assert space.canonical(other) == space.canonical(arch)
        assert space.cost(other) == space.cost(arch)
        assert tuple(other.tolist()) <= tuple(arch.tolist())
        assert representative(other).tolist() == other.tolist()


def test_a_space_too_large_to_enumerate_is_left_alone(space):
    huge = space._replace(decisions=space.decisions._replace(choices=(5,) * 20))
    arch = np.arange(20) % 5
    assert isomorphism.representatives(huge)(arch).tolist() == arch.tolist()


def test_one_score_for_a_class_in_whatever_order(space, representative):
    twins = ([1, 3, 2, 0, 0, 3], [1, 2, 3, 0, 0, 3])  # node 1 is a copy of node 0
    assert space.canonical(np.array(twins[0])) == space.canonical(np.array(twins[1]))
    masks = architecture_to_mask(np.array(twins), 5)
    batch = Batch(np.zeros((1, 8, 8, 1), np.float32), np.zeros(1, int))

    def make(representative_of):
        key = jax.random.key(0)
        scorer = make_scorer("random", space)
        return Evaluator(
            Runner(space, scorer, Draws([key], [batch])), representative_of=representative_of
        )

    apart = make(None).evaluate(masks)
    assert apart[0, 0, 0] != apart[1, 0, 0]
    evaluator = make(representative)
    forwards = evaluator.evaluate(masks)
    assert forwards[0, 0, 0] == forwards[1, 0, 0]
    counts = evaluator.counts
    assert (counts.scored, counts.served, counts.isomorphic) == (1, 1, 1)
    backwards = make(representative).evaluate(masks[::-1])
    np.testing.assert_array_equal(forwards[::-1], backwards)
    supernet = np.ones((1, 6, 5), bool)
    evaluator.evaluate(supernet)
    assert counts.isomorphic == 1


def test_the_distinct_cells_are_the_benchmarks(space):
    found = isomorphism.distinct(space)
    assert found.shape == (6466, 6)
    assert len({space.canonical(arch) for arch in found}) == 6466
    assert (found[0] == 0).all()  # the first of its class in lexicographic order
    with pytest.raises(ValueError, match=r"darts has .* allowed: at most 262144"):
        isomorphism.distinct(make_space("darts", channels=1))
