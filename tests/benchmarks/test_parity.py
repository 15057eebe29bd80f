"""The error of a quantity against another implementation's."""

import numpy as np
import pytest

from saboc_jax.benchmarks.parity import _row


@pytest.mark.parametrize(
    ("ours", "theirs", "error"),
    [
        (1.1, 1.0, 0.1),
        (0.5, 0.0, 0.5),
        (np.inf, np.inf, 0),
        (-np.inf, -np.inf, 0),
        (np.nan, np.nan, 0),
        (np.inf, -np.inf, np.inf),
        (np.nan, 1.0, np.inf),
        (1.0, np.inf, np.inf),
        ([np.inf, 2.2, np.nan], [np.inf, 2.0, np.nan], 0.1),
    ],
)
def test_equal_values_that_are_not_finite_are_no_error(ours, theirs, error):
    assert _row("0", "kappa", "gated", ours, theirs)["error"] == pytest.approx(error)
