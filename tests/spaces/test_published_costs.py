"""The cost of the trained network, against every published value that is at hand.

Tables of benchmarks are read from `tables` in SABOC_DATA_DIR; the tests of a table that is not
there skip.
"""

import csv
import itertools
import os
from pathlib import Path

import numpy as np
import pytest

import saboc_jax as sj
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.nas_bench_101 import costs as nas_bench_101
from saboc_jax.spaces.transnas import costs as transnas


def rows(name):
    path = Path(os.environ.get("SABOC_DATA_DIR", "")) / "tables" / name
    if not os.environ.get("SABOC_DATA_DIR") or not path.exists():
        pytest.skip(f"SABOC_DATA_DIR holds no tables/{name}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def whole(millions):
    """A number from a text in millions, all of whose digits are printed."""
    return round(float(millions) * 1e6)


def test_every_published_parameter_and_flop_of_nas_bench_101():
    space = sj.make_space("nas_bench_101", channels=2, image_shape=(8, 8, 3))
    for row in rows("nas_bench_101.csv"):
        arch = space.from_string(row["arch"])
        assert space.to_string(arch) == row["arch"]
        assert sj.trained_cost(arch, space).params == whole(row["params"]), row["arch"]
        assert nas_bench_101.published_flops(arch) == whole(row["flops"]), row["arch"]


def test_every_published_parameter_and_flop_of_nas_bench_macro():
    space = sj.make_space("nas_bench_macro", channels=2, image_shape=(8, 8, 3))
    for row in rows("nas_bench_macro.csv"):
        cost = sj.trained_cost(row["arch"], space)
        assert (cost.params, cost.macs) == (int(row["params"]), int(row["flops"])), row["arch"]


def test_parameters_of_nats_sss():
    """Its table has none; these three of the benchmark's files are quoted in a public project."""
    published = {"8:8:8:8:8": 11_714, "8:8:16:40:40": 107_826, "64:64:64:64:64": 713_674}
    for text, params in published.items():
        assert sj.trained_cost(text, "nats_sss").params == params
    space = sj.make_space("nats_sss")
    for row in rows("nats_sss.csv")[::100]:
        assert space.to_string(space.from_string(row["arch"])) == row["arch"]


def test_every_published_parameter_and_flop_of_transnas_cells():
    space = sj.make_space("transnas_micro", channels=2, image_shape=(8, 8, 3))
    for row in rows("transnas_micro_architectures.csv"):
        if row["published_params_m"]:
            arch = space.from_string(row["arch"])
            assert sj.trained_cost(arch, space).params == whole(row["published_params_m"])
            assert transnas.micro_flops(arch) == whole(row["published_mflops"])


def test_every_backbone_of_transnas_is_known_and_no_other():
    space = sj.make_space("transnas_macro")
    known = {row["arch"] for row in rows("transnas_macro_architectures.csv")}
    found = set()
    for options in itertools.product(*map(range, space.choices)):
        if space.is_connected(architecture_to_mask(np.array(options), 5)):
            found.add(space.to_string(np.array(options)))
    assert found == known and len(known) == 3256


@pytest.mark.parametrize(
    ("name", "text", "params"),
    [
        # DeiT-Ti by hand: 197 positions and the class token, 12 layers of 192 features.
        ("autoformer", {"hidden_dim": 192, "depth": 12, "mlp_ratio": [4.0] * 12,
                        "num_heads": [3] * 12}, 5_717_416),
        # PiT-Ti, whose parameters are published as 4.85 million.
        ("pit", {"base_dim": 32, "mlp_ratio": 4, "depth": [2, 6, 4], "num_heads": [2, 4, 8]},
         4_847_272),
    ],
)  # fmt: skip
def test_the_smallest_published_transformers_come_out(name, text, params):
    """The accuracies are of 100 classes; the published networks have 1,000."""
    width = sj.trained_cost(str(text), name)
    features = {"autoformer": 192, "pit": 256}[name]
    assert width.params == params - 900 * (features + 1)


@pytest.mark.parametrize("name", ["autoformer", "pit"])
def test_every_transformer_of_the_tables_is_read(name):
    space = sj.make_space(name, image_shape=(8, 8, 3))
    for row in rows(f"{name}.csv"):
        assert space.to_string(space.from_string(row["arch"])) == row["arch"]


def test_every_published_parameter_of_nas_bench_201():
    space = sj.make_space("nas_bench_201", channels=4, num_cells=1, num_classes=3)
    for row in rows("nas_bench_201_published_scores_9445.csv")[::10]:
        assert sj.trained_cost(row["arch"], space).params == whole(row["params"]), row["arch"]


def test_the_size_of_the_scoring_network_does_not_matter():
    for name in ("nas_bench_201", "darts", "resnet", "nas_bench_101"):
        small = {"image_shape": (8, 8, 3), "num_classes": 3}
        spaces = [sj.make_space(name), sj.make_space(name, **small)]
        arch = [0] * len(spaces[0].choices)
        arch[5] = 1  # in NAS-Bench-101 the edge from input to output
        if name == "resnet":
            arch = spaces[0].hints.evolution()["start"]
        costs = [sj.trained_cost(arch, each) for each in (*spaces, name)]
        assert len(set(costs)) == 1


TRAINED = {
    "nas_bench_101": {"channels": 128, "num_cells": 3},
    "nas_bench_201": {"channels": 16, "num_cells": 5},
    "nas_bench_macro": {"channels": 32},
    "nats_sss": {"channels": 64},
    "transnas_macro": {"channels": 64, "num_cells": 2, "num_classes": 63},
    "transnas_micro": {"channels": 64, "num_cells": 2, "num_classes": 63},
}


@pytest.mark.parametrize("name", TRAINED)
def test_options_of_a_space_give_the_trained_network(name):
    side = 256 if name.startswith("transnas") else 32
    space = sj.make_space(name, image_shape=(side, side, 3), **TRAINED[name])
    arch = np.array(space.choices) - 1
    arch[1:9] = 0  # in NAS-Bench-101 there are not too many edges
    if name == "transnas_macro":
        arch = space.from_string("(1,2,3,4)")
    assert space.cost(arch) == sj.trained_cost(arch, space)
