"""The space of all DARTS genotypes: its encoding, and its network against the plain one."""

import csv
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saboc_jax.ntk.empirical import empirical_ntk
from saboc_jax.ntk.network import bind
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.precision import enable_x64
from saboc_jax.spaces.darts import cells, codec, costs, genotypes
from saboc_jax.spaces.darts.network import DartsNet
from saboc_jax.spaces.darts.trained import genotype_of, trained
from saboc_jax.spaces.masks import architecture_to_mask, sample_architectures
from saboc_jax.spaces.nas_bench_201.space import nas_bench_201

SHAPE = (4, 4, 3)
SEP, SKIP, POOL, NONE = "sep_conv_3x3", "skip_connect", "max_pool_3x3", "none"
TWICE = cells.make_genotype(
    ((SEP, 0), (SEP, 0), (POOL, 2), (SKIP, 2), (NONE, 3), (NONE, 3), (SEP, 4), (NONE, 4)),
    ((SKIP, 1), (SKIP, 1), (SEP, 2), (SEP, 2), (POOL, 0), (SEP, 0), (POOL, 0), (POOL, 0)),
)
SMALL_SPACE = genotypes.darts_genotypes(4, 1, 10, (32, 32, 3))
architectures = st.tuples(*(st.integers(0, number - 1) for number in genotypes.CHOICES)).map(
    np.array
)


def images(seed, n=3):
    return jax.random.normal(jax.random.key(seed), (n, *SHAPE), jnp.float64)


@pytest.fixture(scope="module")
def small():
    """C=1, N=1; weights away from their initial values; its program."""
    with enable_x64():
        space = genotypes.darts_genotypes(1, 1, 3, SHAPE)
        leaves, structure = jax.tree.flatten(space.init(jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [
            leaf.astype(jnp.float64) + 0.3 * jax.random.normal(key, leaf.shape, jnp.float64)
            for leaf, key in zip(leaves, keys, strict=True)
        ]
        variables, traces = jax.tree.unflatten(structure, leaves), []

        def run(gates, x):
            traces.append(1)
            return space.apply(variables, gates, x)[0]

        yield space, variables, jax.jit(run), traces


@given(architectures)
def test_architectures_and_genotypes_are_the_same(arch):
    genotype = genotypes.to_genotype(arch)
    np.testing.assert_array_equal(genotypes.from_genotype(genotype), arch)
    mask = architecture_to_mask(arch, max(genotypes.CHOICES))
    joined = costs.cost(genotype, costs.NetworkSize(2, 3)).depth > 0
    # A path through the network needs one through the kinds of cells it has, both of them here.
    assert genotypes.is_connected(mask) <= joined


@given(architectures)
def test_the_order_of_a_nodes_edges_and_what_none_reads_do_not_count(arch):
    genotype = genotypes.to_genotype(arch)
    turned = [
        tuple(edge for node in range(0, 8, 2) for edge in cell[node : node + 2][::-1])
        for cell in genotype.cells()
    ]
    moved = [tuple((op, 1 if op == NONE else s) for op, s in cell) for cell in turned]
    other = genotypes.from_genotype(cells.make_genotype(*moved))
    assert genotypes.canonical(other) == genotypes.canonical(arch)
    again = codec.read_genotype(genotypes.canonical(arch))
    size = costs.NetworkSize(2, 4)
    assert costs.cost(again, size) == costs.cost(genotype, size)


def test_gated_equals_specialised_and_is_traced_once(small):
    space, variables, run, traces = small
    drawn = sample_architectures(jax.random.key(3), genotypes.CHOICES, 4)
    with enable_x64():
        for arch in (genotypes.from_genotype(TWICE), *drawn):
            module = space.specialise(arch)
            theirs = module.apply(space.extract(variables, arch), images(2), train=True)
            np.testing.assert_allclose(
                run(space.gates(arch), images(2)), theirs, rtol=1e-11, atol=1e-12
            )
        assert len(traces) == 1


def test_an_operation_twice_has_weights_of_its_own_twice(small):
    space, variables, _, _ = small
    own = space.extract(variables, genotypes.from_genotype(TWICE))["params"]["cells_0"]
    first, second = (jax.tree.leaves(own[f"edge_{number}"]) for number in (0, 1))
    assert [leaf.shape for leaf in first] == [leaf.shape for leaf in second]
    assert all((a != b).all() for a, b in zip(first, second, strict=True))


def test_a_supernet_averages_operations_and_inputs(small):
    """Node 2 of the normal cell reads either input by either of two operations, alone."""
    space = small[0]
    nothing = cells.make_genotype(((NONE, 0),) * 8, TWICE.reduce)
    arch = genotypes.from_genotype(nothing)
    mask = architecture_to_mask(arch, max(genotypes.CHOICES))
    mask[0] = np.isin(np.arange(8), [cells.OPERATIONS.index(name) for name in (SEP, POOL)])
    mask[genotypes.FIRST_SOURCE] = np.arange(8) < 2
    gates = genotypes.edge_gates(space.gates(mask), reduction=False)
    expected = np.zeros((28, 8))
    for edge in (0, 2):  # the first copies of 0 -> 2 and 1 -> 2
        expected[edge, [cells.OPERATIONS.index(name) for name in (SEP, POOL)]] = 0.25
    np.testing.assert_array_equal(gates[:, 1:], expected[:, 1:])


def test_the_ntk_is_that_of_the_jacobian(small):
    space, variables, _, _ = small
    with enable_x64():
        gates = space.gates(genotypes.from_genotype(TWICE))
        kernels = []
        for options in map(NTKOptions, ("one_backward", "jacobian")):
            run = jax.jit(
                lambda g, x, o=options: empirical_ntk(bind(space, variables, g), x, None, o)
            )
            kernels.append(run(gates, images(4, 4)))
        ours, theirs = kernels
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8 * np.abs(theirs).max())


def test_trained_networks_and_costs_are_those_of_the_genotype():
    arch = genotypes.from_genotype(TWICE)
    space = trained(genotypes.darts_genotypes(1, 1, 10, (32, 32, 3)), 4, 3)
    module = space.specialise(arch)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    counted = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert space.cost(arch).params == counted
    assert isinstance(module, DartsNet) and genotype_of(space, arch) == TWICE
    with pytest.raises(ValueError, match="nas_bench_201"):
        genotype_of(nas_bench_201(1, 1), np.zeros(6, int))


@given(st.integers(0, 2**31), st.sampled_from(["params", "macs"]))
def test_the_cheapest_member_costs_no_more_than_any(seed, quantity):
    """Where operations and inputs depend on each other: an identity costs in a reduction cell."""
    rng = np.random.default_rng(seed)
    shape = (len(genotypes.CHOICES), max(genotypes.CHOICES))
    exists = np.arange(shape[1]) < np.array(genotypes.CHOICES)[:, None]
    mask = exists & (rng.random(shape) < 0.5)
    mask[:, 0] |= ~mask.any(1)
    space = SMALL_SPACE
    best = space.costs.cheapest(mask, quantity)
    assert mask[np.arange(shape[0]), best].all()
    for _ in range(10):
        member = [rng.choice(np.flatnonzero(row)) for row in mask]
        costs = [getattr(space.cost(np.array(arch)), quantity) for arch in (best, member)]
        assert costs[0] <= costs[1]


def test_the_cheapest_identity_of_a_reduction_cell_reads_a_node():
    arch = genotypes.from_genotype(cells.make_genotype(((NONE, 0),) * 8, ((SKIP, 0),) * 8))
    mask = architecture_to_mask(arch, max(genotypes.CHOICES))
    mask[genotypes.FIRST_SOURCE + genotypes.SLOTS :] = np.arange(8) < 3  # of nodes 0, 1 and 2
    mask &= np.arange(8) < np.array(genotypes.CHOICES)[:, None]
    best = genotypes.to_genotype(SMALL_SPACE.costs.cheapest(mask, "params"))
    assert [source for _, source in best.reduce] == [0, 0] + [2] * 6


def test_every_swap_genotype_is_an_architecture():
    folder = os.environ.get("SABOC_DATA_DIR")
    path = Path(folder or "", "darts_swap1000.csv")
    if not folder or not path.is_file():
        pytest.skip(f"{path.name} is not in SABOC_DATA_DIR")
    with path.open() as file:
        texts = [row["genotype"] for row in csv.DictReader(file)]
    space = genotypes.darts_genotypes(1)
    assert [space.to_string(space.from_string(text)) for text in texts] == texts


def test_a_mask_of_another_space_is_named():
    with pytest.raises(ValueError, match=r"shape \(36, 10\)"):
        genotypes.is_connected(np.zeros((36, 10)))
