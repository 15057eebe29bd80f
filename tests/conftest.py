"""Fixtures that several test modules share."""

import gc
import json
import os

import jax
import numpy as np
import pytest

from saboc_jax.precision import enable_x64
from saboc_jax.spaces.nas_bench_201.cells import all_architectures, to_string

jax.devices()  # JAX runs with one device before a binary opens more
gc.set_threshold(200_000, 50, 100)  # tracing makes much garbage: collecting it was an eighth


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


@pytest.fixture(scope="session")
def made_lines() -> list[str]:
    """A complete table with made-up accuracies: column j of row i is (i + j) / 1000 % 100."""
    sets = ("cifar10_valid", "cifar100", "imagenet16_120")
    names = [f"{name}_test" for name in ("cifar10", *sets[1:])]
    names += [f"{name}_{split}" for name in sets for split in ("train", "val")]
    names.append("cifar10_valid_val_12ep")
    lines = ["index,arch," + ",".join(names) + ",cifar10_12ep_seconds"]
    for i, arch in enumerate(all_architectures()):
        numbers = [f"{(i + j) / 1000 % 100:.3f}" for j in range(len(names) + 1)]
        lines.append(f"{15624 - i},{to_string(arch)}," + ",".join(numbers))
    return lines
