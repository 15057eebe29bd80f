"""The gated DARTS network: equal to the plain one, one program, averages and sums, its NTK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax.layers.ops import BatchNorm, Conv, ReluConvNorm
from saboc_jax.ntk.empirical import empirical_ntk
from saboc_jax.ntk.network import bind
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.ntk.spectrum import condition_number, decompose
from saboc_jax.precision import enable_x64
from saboc_jax.spaces import make_space
from saboc_jax.spaces.darts import cells
from saboc_jax.spaces.darts.network import Operation
from saboc_jax.spaces.darts.space import darts, edge_gates
from saboc_jax.spaces.darts.supernet import edge_groups
from saboc_jax.spaces.masks import architecture_to_mask, mask_to_gates, sample_architectures

SHAPE = (4, 4, 3)


def drawn(space):
    """Weights in float64, away from their initial values."""
    leaves, structure = jax.tree.flatten(space.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        leaf.astype(jnp.float64) + 0.3 * jax.random.normal(key, leaf.shape, jnp.float64)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)


def images(seed, n=3):
    return jax.random.normal(jax.random.key(seed), (n, *SHAPE), jnp.float64)


@pytest.fixture(scope="module")
def small():
    """C=1, N=1; its weights and its program."""
    with enable_x64():
        space = darts(1, 1, 3, SHAPE)
        variables, traces = drawn(space), []

        def run(gates, x):
            traces.append(1)
            return space.apply(variables, gates, x)[0]

        yield space, variables, jax.jit(run), traces


def test_gated_equals_specialised_and_is_traced_once(small):
    space, variables, run, traces = small
    with enable_x64():
        x = images(2)
        for arch in sample_architectures(jax.random.key(3), cells.CHOICES, 6):
            module = space.specialise(arch)
            theirs = module.apply(space.extract(variables, arch), x, train=True)
            np.testing.assert_allclose(run(space.gates(arch), x), theirs, rtol=1e-11, atol=1e-12)
        assert len(traces) == 1


def masks():
    """All options and all pairs but some: in both kinds of cell, one of a few kept inputs."""
    rng = np.random.default_rng(0)
    full = np.arange(10) < np.array(cells.CHOICES)[:, None]
    some = architecture_to_mask(rng.integers(0, cells.CHOICES), 10) | (
        full & (rng.random(full.shape) < 0.4)
    )
    return {"full": full, "some": some}


def weights_of(params, cell, edge, name):
    """Of one operation on one edge; {} if it has none."""
    (group,) = [g for g in edge_groups(cell, bool(cell)) if edge in g.edges]
    place = group.edges.index(edge)
    return jax.tree.map(lambda leaf: leaf[place], params.get(f"{group.name}_{name}", {}))


def without_scan(space, params, mask, x):
    """The supernet with loops and sets, from single operations: C=1, N=1."""

    def apply(module, tree, x):
        return module.apply({"params": tree}, x)

    x = apply(BatchNorm(), params["stem_norm"], apply(Conv(1, 3), params["stem_conv"], x))
    older = newer = x
    for cell in (0, 1):
        pre = [params[f"cells_{cell}_input_{i}"] for i in (0, 1)]
        nodes = [
            apply(ReluConvNorm(1 + cell, 1), p, y) for p, y in zip(pre, (older, newer), strict=True)
        ]
        for node in range(4):
            kept = {s for o, pair in enumerate(cells.PAIRS[node]) for s in pair
                    if mask[28 + 4 * cell + node, o]}  # fmt: skip
            total = 0
            for source in sorted(kept):
                edge = cells.EDGES.index((source, node + 2))
                active = [o for o in range(8) if mask[14 * cell + edge, o]]
                for option in set(active) - {0}:
                    name = cells.OPERATIONS[option]
                    stride = 2 if cell and source < 2 else 1
                    own = weights_of(params, cell, edge, name)
                    y = apply(Operation(name, 1 + cell, stride), own, nodes[source])
                    total = total + y / len(active)
            nodes.append(total)
        older, newer = newer, jnp.concatenate(nodes[2:], -1)
    newer = jax.nn.relu(apply(BatchNorm(), params["last_norm"], newer))
    classifier = params["classifier"]
    return newer.mean((1, 2)) @ classifier["kernel"] + classifier["bias"]


@pytest.mark.parametrize("name", ["full", "some"])
def test_a_supernet_averages_operations_and_sums_kept_inputs(small, name):
    space, variables, run, traces = small
    mask = masks()[name]
    with enable_x64():
        expected = jax.jit(lambda x: without_scan(space, variables["params"], mask, x))(images(2))
        # Shares are float32: thirds and sevenths are not exact.
        np.testing.assert_allclose(run(space.gates(mask), images(2)), expected, rtol=1e-6)
        assert len(traces) == 1


def test_an_edge_counts_if_an_active_pair_holds_it():
    for name, mask in masks().items():
        kept = cells.kept_edges(mask)
        assert kept.all() == (name == "full")
        for cell in (0, 1):
            ours = edge_gates(mask_to_gates(mask), bool(cell))
            theirs = mask_to_gates(mask)[14 * cell : 14 * cell + 14, :8] * kept[cell][:, None]
            np.testing.assert_array_equal(ours, theirs)


def test_the_ntk_is_that_of_the_jacobian_for_genotypes_and_supernets(small):
    space, variables, _, _ = small
    with enable_x64():
        arch = sample_architectures(jax.random.key(3), cells.CHOICES, 1)[0]
        kernels = {}
        for engine in ("one_backward", "jacobian"):
            options = NTKOptions(engine)
            run = jax.jit(
                lambda g, x, o=options: empirical_ntk(bind(space, variables, g), x, None, o)
            )
            inputs = (arch, masks()["full"])
            kernels[engine] = [run(space.gates(given), images(4, 4)) for given in inputs]
        for ours, theirs in zip(*kernels.values(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8 * np.abs(theirs).max())
            kappas = [condition_number(decompose(k).values, 0.0) for k in (ours, theirs)]
            np.testing.assert_allclose(*kappas, rtol=1e-8)


@pytest.mark.parametrize(("channels", "num_cells"), [(1, 1), (2, 2)])
def test_parameters_are_those_of_the_formulas(channels, num_cells):
    space = darts(channels, num_cells, 7, (8, 8, 3))
    for arch in sample_architectures(jax.random.key(num_cells), cells.CHOICES, 2):
        module = space.specialise(arch)
        shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        counted = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        variables = jax.eval_shape(space.init, jax.random.key(0))
        own = jax.eval_shape(lambda v, a=arch: space.extract(v, a), variables)
        assert jax.tree.map(lambda leaf: leaf.shape, own) == jax.tree.map(
            lambda leaf: leaf.shape, {"params": shapes["params"]}
        )
        assert counted == space.cost(arch).params


def test_weights_have_the_variance_of_one_edge():
    kernel = darts(8).init(jax.random.key(0))["params"]["cells_0_edges_sep_conv_5x5"]
    kernel = kernel["conv_a"]["pointwise"]["conv"]["kernel"]
    assert kernel.shape == (14, 1, 1, 8, 8)
    np.testing.assert_allclose(np.var(kernel), 2 / 8, rtol=0.15)


@pytest.mark.parametrize(("options", "said"), [
    ({"channels": 0}, "channels=0"),
    ({"image_shape": (9, 8, 3)}, "multiples of 2"),
    ({"init": "xavier"}, "xavier"),
    ({"width": 3}, "width"),
])  # fmt: skip
def test_what_is_wrong_is_named(options, said):
    with pytest.raises(ValueError, match=said):
        make_space("darts", **options)
