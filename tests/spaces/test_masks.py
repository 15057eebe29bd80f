"""Architectures drawn at random: which ones, and that a seed keeps meaning the same."""

import jax
import numpy as np
import pytest

from saboc_jax.keys import key_numbered, root_key
from saboc_jax.spaces.masks import (
    architecture_to_mask,
    sample_architectures,
    sample_connected,
    sample_distinct,
)
from saboc_jax.spaces.nas_bench_201.cells import DECISIONS

CHOICES = DECISIONS.choices
FIRST_OF_SEED_0 = [[1, 1, 2, 2, 1, 4], [2, 2, 3, 0, 0, 0]]  # of `--arch_seed=0` in kept studies


def test_architectures_are_uniform_and_reproducible():
    drawn = sample_architectures(jax.random.key(0), CHOICES, 4000)
    np.testing.assert_array_equal(drawn, sample_architectures(jax.random.key(0), CHOICES, 4000))
    assert (drawn != sample_architectures(jax.random.key(1), CHOICES, 4000)).any()
    for column in drawn.T:
        # 800 expected, standard deviation 25.3: five of them
        assert np.abs(np.bincount(column, minlength=5) - 800).max() < 127
    assert sample_architectures(jax.random.key(0), CHOICES, 0).shape == (0, 6)


def test_distinct_architectures_are_the_first_of_numbered_draws():
    """Kept studies name their cells by a seed: these are the cells of seed 0."""
    found = sample_distinct(root_key(0), CHOICES, 5000)
    assert found.shape == (5000, 6) and len({*map(tuple, found.tolist())}) == 5000
    first = sample_architectures(key_numbered(root_key(0), 0), CHOICES, 15625 // 4 + 64)
    np.testing.assert_array_equal(found[:1], first[:1])
    in_order = list(dict.fromkeys(map(tuple, first.tolist())))
    np.testing.assert_array_equal(found[: len(in_order)], in_order)
    np.testing.assert_array_equal(found[:2], FIRST_OF_SEED_0)


def test_all_of_a_space_can_be_drawn_and_no_more():
    found = sample_distinct(jax.random.key(3), (2, 3), 6)
    assert {*map(tuple, found.tolist())} == {(a, b) for a in range(2) for b in range(3)}
    with pytest.raises(ValueError, match="7 distinct architectures; allowed: at most 6"):
        sample_distinct(jax.random.key(3), (2, 3), 7)


def test_connected_architectures_are_those_of_a_larger_draw():
    key = jax.random.key(0)
    found = sample_connected(key, DECISIONS, 20)
    masks = architecture_to_mask(found, 5)
    assert len(found) == 20 and all(map(DECISIONS.is_connected, masks))
    everyone = sample_architectures(key, CHOICES, 96)
    kept = [a for a in everyone.tolist() if DECISIONS.is_connected(architecture_to_mask(a, 5))]
    assert found.tolist() == kept[:20]


def test_connected_architectures_come_once_where_that_is_asked():
    pairs = DECISIONS._replace(choices=(2, 2), is_connected=lambda mask: bool(mask[0, 1]))
    often = sample_connected(jax.random.key(0), pairs, 4)
    once = sample_connected(jax.random.key(0), pairs, 4, distinct=True)
    assert len(often) == 4 and len(once) == 2
    assert once.tolist() == [list(a) for a in dict.fromkeys(map(tuple, often.tolist()))]
