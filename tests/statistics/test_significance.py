"""Paired differences against scipy, and their edge cases."""

import numpy as np
import pytest
import scipy.stats

from saboc_jax.statistics.significance import paired_difference


def test_agrees_with_scipy():
    rng = np.random.default_rng(0)
    for pairs in (2, 3, 5, 17):
        a, b = rng.normal(size=(2, pairs))
        ours = paired_difference(a, b, level=0.9)
        theirs = scipy.stats.ttest_rel(a, b)
        interval = theirs.confidence_interval(0.9)
        assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
        assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert ours.mean == pytest.approx((a - b).mean())
        assert ours.wins == (a > b).sum()


def test_a_shift_is_found_and_its_sign_is_that_of_a():
    b = np.array([90.0, 91.0, 89.5, 90.2, 90.9])
    gap = paired_difference(b + np.array([1.0, 1.1, 0.9, 1.05, 0.95]), b)
    assert gap.low > 0
    assert gap.p_value < 0.001
    assert paired_difference(b, b + 1.0)[:4] == pytest.approx((-1, -1, -1, 0), abs=1e-9)


def test_equal_results_differ_by_nothing_and_one_pair_says_nothing():
    assert paired_difference([1.0, 2.0], [1.0, 2.0]) == (0, 0, 0, 1.0, 1.0, 2)
    alone = paired_difference([2.0], [1.0])
    assert alone.mean == 1
    assert np.isnan([alone.low, alone.high, alone.p_value]).all()


@pytest.mark.parametrize(
    ("a", "b", "level"), [([1.0], [1.0, 2.0], 0.9), ([], [], 0.9), ([1.0], [1.0], 1.0)]
)
def test_what_does_not_fit_is_refused(a, b, level):
    with pytest.raises(ValueError, match="allowed"):
        paired_difference(a, b, level)
