"""Fixtures that several test modules share."""

import json
import os

import jax
import numpy as np
import pytest

from saboc_jax.precision import enable_x64

jax.devices()  # JAX runs with one device before a binary opens more


@pytest.fixture
def x64():
    """Float64 for one test."""
    with enable_x64():
        yield


@pytest.fixture(scope="session")
def golden():
    """(arrays, meta) of the reference values; skips where they are not to be found."""
    folder = os.environ.get("SABOC_GOLDEN_DIR")
    if not folder:
        pytest.skip("SABOC_GOLDEN_DIR is unset: no golden values to compare with")
    with np.load(os.path.join(folder, "nas_bench_201_c4n1.npz")) as archive:
        arrays = dict(archive)
    return arrays, json.loads(str(arrays["meta"]))
