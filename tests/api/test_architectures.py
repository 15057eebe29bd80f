"""`saboc_jax.read_architecture` by names of spaces, and by the numbers of the benchmark."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

import saboc_jax as sj


def test_an_index_is_the_benchmarks(tmp_path):
    folder = os.environ.get("SABOC_DATA_DIR")
    if not folder:
        pytest.skip("SABOC_DATA_DIR is not set: no table of indices")
    with Path(folder, "nas_bench_201.csv").open(newline="") as file:
        rows = {int(row["index"]): row["arch"] for row in csv.DictReader(file)}
    space = sj.make_space("nas_bench_201")
    for given in (1462, "1462", np.int64(1462)):
        assert space.to_string(sj.read_architecture(given, space)) == rows[1462]
    assert space.to_string(sj.read_architecture("7", space, "index")) == rows[7]
    with pytest.raises(ValueError, match=r"index 15625 .* allowed: 0 to 15624"):
        sj.read_architecture(15625, space)
    with pytest.raises(ValueError, match=r"index 3 needs the benchmark's table: .* not exist"):
        sj.read_architecture(3, "nas_bench_201", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("given", "space", "notation", "said"),
    [
        (3, "darts", None, "allowed in space darts"),
        (3, "darts", "index", "allowed: of nas_bench_201"),
        ("x", "nasbench", None, "space 'nasbench' is unknown; allowed"),
        ("x", None, None, "space=None; allowed: a SearchSpace"),
        (None, "nas_bench_201", None, "allowed in space nas_bench_201: e.g."),
        ([0.5] * 6, "nas_bench_201", None, "allowed in space nas_bench_201: e.g."),
        (np.zeros((2, 6), int), "nas_bench_201", None, "allowed in space nas_bench_201: e.g."),
    ],
)
def test_bad_input_is_one_sentence(given, space, notation, said):
    with pytest.raises(ValueError, match=said):
        sj.read_architecture(given, space, notation)
