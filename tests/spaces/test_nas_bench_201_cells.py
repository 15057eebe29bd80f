"""Cells of NAS-Bench-201 against exhaustive enumeration, hand counts and published tables."""

import csv
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from saboc_jax.spaces.masks import sample_architectures
from saboc_jax.spaces.nas_bench_201 import cells

CONV3 = cells.OPERATIONS.index("nor_conv_3x3")
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|"


def read_rows(name: str) -> list[dict[str, str]]:
    directory = os.environ.get("SABOC_DATA_DIR")
    if not directory:
        pytest.skip("SABOC_DATA_DIR is not set: the published tables are not available")
    with (Path(directory) / name).open(newline="") as file:
        return list(csv.DictReader(file))


# The four paths from node 0 to node 3, as edge indices, written down by hand.
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))


def test_edges_are_in_the_order_of_the_string() -> None:
    arch = np.array([0, 1, 2, 3, 4, 0])
    text = "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|"
    assert cells.to_string(arch) == text
    assert cells.EDGES == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    np.testing.assert_array_equal(cells.from_string(f" {text}\n"), arch)


def test_every_cell_survives_the_round_trip() -> None:
    every = cells.all_architectures()
    assert every.shape == (15625, 6)
    texts = [cells.to_string(arch) for arch in every]
    assert len(set(texts)) == 15625
    np.testing.assert_array_equal([cells.from_string(text) for text in texts], every)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "1 nodes between"),
        ("|none~0|+|none~0|none~1|", "2 nodes between"),
        (BEST + "+|none~0|", "4 nodes between"),
        (BEST.replace("none~2", "conv~2"), "unknown operation 'conv' into node 3, known are none"),
        (BEST.replace("none~2", "none~1"), "node 3 has source '1', expected 2"),
        (BEST.replace("none~2", "none~x"), "source 'x', expected 2"),
        (BEST.replace("none~2", "none"), "no '~'"),
        (BEST.replace("|none~2|", "|"), "node 3 has 2 edges, expected 3"),
        (BEST[1:], "node 1 is 'nor_conv_3x3~0|' and must start and end"),
        (BEST[:-1], "node 3 is .* must start and end"),
        ("|+|none~0|none~1|+|none~0|none~1|none~2|", "node 1 is '|' and must"),
    ],
)
def test_malformed_text_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("|", r"\|")):
        cells.from_string(text)


@pytest.mark.parametrize("arch", [[0] * 5, [0] * 7, [[0] * 6], [0.0] * 6, [5] + [0] * 5, [-1] * 6])
def test_malformed_arrays_are_refused(arch: list) -> None:
    for function in (cells.to_string, cells.canonical, cells.cost):
        with pytest.raises(ValueError, match="architecture"):
            function(np.array(arch))


def test_connectivity_equals_the_enumeration_of_paths() -> None:
    masks = np.random.default_rng(0).random((300, 6, 5)) < 0.2
    found = [cells.is_connected(mask) for mask in masks]
    for mask, connected in zip(masks, found, strict=True):
        assert connected == any(mask[list(path), 1:].any(axis=1).all() for path in PATHS)
    assert 0 < sum(found) < len(found)


def test_connectivity_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match=r"\(5, 6\)"):
        cells.is_connected(np.ones((5, 6), bool))


def test_enumeration_has_6466_isomorphism_classes() -> None:
    every = cells.all_architectures()
    assert len({cells.canonical(arch) for arch in every}) == 6466


def test_canonical_partition_is_the_published_one() -> None:
    rows = read_rows("nas_bench_201.csv")
    ours = [cells.canonical(cells.from_string(row["arch"])) for row in rows]
    theirs = [row["canonical"] for row in rows]
    pairs = set(zip(ours, theirs, strict=True))
    assert len(pairs) == len(set(ours)) == len(set(theirs)) == 6466
    assert ours == theirs


def test_cost_by_hand() -> None:
    # One 3x3 on 0->1, one skip on 1->3; C=2, N=1, 3 classes, 4x4 images.
    arch = np.array([CONV3, 0, 0, 0, 1, 0])
    stem, stages = 3 * 2 * 9, (9 * 2 * 2, 9 * 4 * 4, 9 * 8 * 8)
    reduce_1 = 9 * 2 * 4 + 9 * 4 * 4 + 2 * 4
    reduce_2 = 9 * 4 * 8 + 9 * 8 * 8 + 4 * 8
    norms = 2 * (2 + 2 + 4 + 8 + 2 * 4 + 2 * 8 + 8)
    expected_params = stem + sum(stages) + reduce_1 + reduce_2 + norms + 8 * 3 + 3
    expected_macs = (
        16 * (stem + stages[0]) + 4 * (reduce_1 + stages[1]) + reduce_2 + stages[2] + 8 * 3
    )
    cost = cells.cost(arch, channels=2, cells=1, num_classes=3, image_shape=(4, 4, 3))
    assert cost == (expected_params, expected_macs, 1 + 3 * 1 + 2 * 2 + 1)


def test_depth_equals_the_longest_of_the_enumerated_paths() -> None:
    for arch in np.asarray(sample_architectures(jax.random.key(3), cells.DECISIONS.choices, 200)):
        paths = [arch[list(path)] for path in PATHS]
        convs = [int(np.isin(ops, (2, 3)).sum()) for ops in paths if ops.all()]
        expected = 6 + 3 * 2 * max(convs) if convs else 0
        assert cells.cost(arch, cells=2).depth == expected


@pytest.mark.parametrize("bad", [{"channels": 0}, {"cells": 0}, {"num_classes": 0}])
def test_cost_refuses_empty_networks(bad: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is 0"):
        cells.cost(np.zeros(6, int), **bad)


@pytest.mark.parametrize("size", [0, 2, 30, 33])
def test_cost_refuses_sizes_that_cannot_be_halved_twice(size: int) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        cells.cost(np.zeros(6, int), image_shape=(size, size, 3))


@pytest.mark.parametrize(
    ("dataset", "classes", "size"),
    [("cifar10", 10, 32), ("cifar100", 100, 32), ("ImageNet16-120", 120, 16)],
)
def test_costs_equal_the_published_ones(dataset: str, classes: int, size: int) -> None:
    rows = read_rows("nas_bench_201_published_scores.csv")
    rows = [row for row in rows if row["dataset"] == dataset]
    assert len(rows) >= 724
    for row in rows:
        arch = cells.from_string(row["arch"])
        counted = cells.cost(arch, num_classes=classes, image_shape=(size, size, 3))
        assert counted.params == round(float(row["params"]) * 1e6)
        flops = cells.published_flops(arch, num_classes=classes, image_shape=(size, size, 3))
        assert flops == round(float(row["flops"]) * 1e6)
        assert counted.macs < flops
