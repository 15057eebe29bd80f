"""Costs of a table: as limits, as objectives, and what is wrong with them."""

import jax
import numpy as np
import pytest

import saboc_jax as sj
from saboc_jax import data
from saboc_jax.searching.budgets import Budget, budget_check
from saboc_jax.searching.front import costs_told
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.nas_bench_201 import cells

SPACE = sj.make_space("nas_bench_201", channels=2, num_cells=1)
EVERY = cells.all_architectures()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Latencies of half of the cells: 1 ms and 2 ms an edge with a 1x1 and a 3x3 convolution."""
    rows = [
        f"{cells.to_string(arch)},{1 + (arch == 2).sum() + 2 * (arch == 3).sum()},7"
        for arch in EVERY[::2]
    ]
    path = tmp_path_factory.mktemp("costs") / "costs.csv"
    path.write_text("\n".join(["arch,raspi4_latency,energy", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def table(path):
    return sj.read_table(path, SPACE)


def mask(arch):
    return architecture_to_mask(np.asarray(arch), 5)


def test_a_limit_allows_what_the_table_knows_to_be_within_it(table):
    allows = budget_check(SPACE, Budget(costs={"raspi4_latency": 3}), table=table)
    assert allows(mask([0, 0, 0, 0, 0, 4])) and allows(mask([2, 2, 0, 0, 0, 0]))
    assert not allows(mask([3, 3, 0, 0, 0, 0]))  # 5 ms
    assert not allows(mask([0, 0, 0, 0, 0, 1]))  # not in the table
    everything = np.ones((6, 5), bool)
    assert allows(everything)
    assert not allows(everything & mask([3] * 6) | mask([3] * 6))


def test_limits_hold_at_once_for_one_member_of_a_supernet(table):
    convolution = SPACE.cost([3, 0, 0, 0, 0, 0]).params
    none = SPACE.cost([0] * 6).params
    limits = {"raspi4_latency": 3, "params": none}
    allows = budget_check(SPACE, Budget(costs=limits), table=table)
    # Each member breaks one limit or the other, or is not known.
    two = mask([3, 3, 3, 3, 3, 1]) | mask([2, 2, 2, 2, 2, 1])
    assert not allows(two) and allows(mask([1, 0, 0, 0, 0, 1])) and convolution > none
    assert budget_check(SPACE, Budget(costs={"params": none}))(mask([1] * 6))


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(costs={"latency": 3}), "cost 'latency'; allowed: params, macs, depth, or a column"),
        (Budget(costs={"raspi4_latency": float("nan")}), "raspi4_latency=nan; allowed: a number"),
        (Budget(costs={"raspi4_latency": "3"}), "raspi4_latency='3'; allowed: a number"),
        (Budget(latency_ms=float("nan")), "limit latency_ms=nan; allowed: a number"),
        (Budget(costs={"energy": 6}), r"costs.csv is within {'energy': 6.0}.*least there are.* 7"),
        (Budget(params=3, costs={"params": 4}), "limits on params stand twice"),
    ],
)
def test_wrong_limits_are_one_sentence(table, budget, said):
    with pytest.raises(ValueError, match=said):
        budget_check(SPACE, budget, latency=lambda arch: 1.0, table=table)


def test_without_a_table_there_are_the_costs_of_the_space():
    with pytest.raises(ValueError, match="params, macs, depth, or a column of a table, which is"):
        budget_check(SPACE, Budget(costs={"raspi4_latency": 3}))
    told = costs_told(SPACE, "macs")
    assert told(mask([[3] * 6]))[0, 0] == SPACE.cost([3] * 6).macs


def search(**options):
    options = {"repeats": 1, "batch_size": 4, "progress": False} | options
    return sj.search(SPACE, data.load("digits"), jax.random.key(0), "params", **options)


def test_a_search_within_a_measured_latency(table):
    found = sj.search(
        "nas_bench_201", data.load("digits"), jax.random.key(0), "params", repeats=1, batch_size=4,
        progress=False, budget=Budget(costs={"raspi4_latency": 5}), table=table,
    )  # fmt: skip
    assert table.values([found.arch], "raspi4_latency")[0] <= 5
    assert SPACE.is_connected(mask(found.arch)) and found.search.rejected > 0


def test_a_search_against_a_measured_latency_gives_a_front(path, tmp_path):
    found = sj.search(
        "nas_bench_201", data.load("digits"), jax.random.key(0), "params", repeats=1, batch_size=4,
        progress=False, searcher="random", max_evaluations=64, against="raspi4_latency", table=path,
    )  # fmt: skip
    front = found.front
    latencies = sj.read_table(path, SPACE).values(front.archs, "raspi4_latency")
    np.testing.assert_array_equal(front.costs, latencies)
    order = front.in_order()
    assert len(order) > 2 and (np.diff(front.costs[order]) >= 0).all()
    assert (np.diff(front.scores[order, 0]) >= 0).all()
    found.save(tmp_path / "found.json")
    kept = sj.Found.load(tmp_path / "found.json", found.space).front
    for ours, theirs in zip(kept, front, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="against='macs' with pruning"):
        search(against="macs")
