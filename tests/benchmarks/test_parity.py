"""The error of a quantity against another implementation's."""

import json

import numpy as np
import pytest

from saboc_jax.benchmarks.parity import _row, load, read_meta


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


META = {"C": 2, "N": 1, "num_classes": 3, "nets": {"0": {"arch": "x"}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"meta": "{"}, "meta is damaged"),
        ({"meta": "[]"}, r"the content is \[\]; allowed: an object"),
        ({"meta": json.dumps(META | {"C": "two"})}, "C is 'two'; allowed: a whole number"),
        ({"meta": json.dumps(META | {"nets": {"0": 1}})}, r"nets\.0 is 1; allowed: an object"),
        ({"meta": json.dumps(META | {"nets": {"0": {}}})}, "nets.0 .*'arch'"),
        ({"x1": np.zeros((2, 4))}, "images of shapes"),
        ({"noise": np.zeros((3, 4, 4, 3))}, "allowed: one size"),
        ({"y1": np.array([0, 3])}, "y1 of shape .*; allowed: 2 whole numbers from 0 to 2"),
    ],
)
def test_a_golden_file_of_another_form_is_named(tmp_path, changes, message):
    images, labels = np.zeros((2, 4, 4, 3)), np.array([0, 1])
    arrays = dict.fromkeys(("x1", "x2", "x_test", "noise"), images)
    arrays |= dict.fromkeys(("y1", "y2", "y_test"), labels) | {"meta": json.dumps(META)}
    path = tmp_path / "golden.npz"
    np.savez(path, **arrays)
    assert read_meta(load(path), path) == META
    np.savez(path, **(arrays | changes))
    with pytest.raises(ValueError, match=message) as caught:
        read_meta(load(path), path)
    assert "golden.npz" in str(caught.value)
