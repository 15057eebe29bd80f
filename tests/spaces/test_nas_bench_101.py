"""NAS-Bench-101: graphs, channels, the cell by NumPy, mutations, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_benchmark_spaces import traced_cost

import saboc_jax as sj
from saboc_jax.spaces.masks import architecture_to_mask
from saboc_jax.spaces.nas_bench_101 import cells
from saboc_jax.spaces.nas_bench_101.costs import vertex_channels
from saboc_jax.spaces.nas_bench_101.network import Cell
from saboc_jax.spaces.nas_bench_101.space import mutate

POOL, ONE, THREE = cells.OPERATIONS


def cell(edges, *operations):
    size = len(operations) + 2
    matrix = np.zeros((size, size), int)
    matrix[tuple(np.transpose(edges))] = 1
    return cells.from_graph(matrix, operations)


def one_hot(arch):
    return architecture_to_mask(arch, 3)


@pytest.fixture(scope="module")
def drawn():
    return np.random.default_rng(0).integers(0, cells.CHOICES, (300, 26)).astype(np.int32)


def test_vertices_on_no_path_are_removed():
    """Vertex 1 has no way in, 3 none out."""
    arch = cell([(1, 2), (0, 2), (2, 3), (2, 4)], THREE, ONE, POOL)
    assert cells.to_graph(arch) == cells.Graph(((0, 1), (1, 2)), (ONE,))
    assert cells.to_graph(np.zeros(26, np.int32)) == cells.Graph((), ())


def test_channels_are_shared_by_what_feeds_the_output():
    arch = cell([(0, 1), (1, 2), (1, 3), (0, 3), (2, 4), (3, 4)], THREE, POOL, ONE)
    assert vertex_channels(cells.to_graph(arch), 8, 7) == (8, 4, 4, 3, 7)


def test_a_text_is_that_of_published_tables():
    arch = cell([(0, 1), (1, 2)], THREE)
    text = cells.to_string(arch)
    assert text.startswith("(0,1,0,0,0,0,0,0,0,0,0,0,0,1,") and text.endswith(",0,4,2,2,2,2,1)")
    np.testing.assert_array_equal(cells.from_string(text.replace(",", ", ")), arch)


def test_isomorphic_cells_share_a_text(drawn):
    one = cell([(0, 1), (0, 2), (1, 3), (2, 3)], THREE, ONE)
    other = cell([(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)], ONE, THREE)
    assert cells.canonical(one) != cells.canonical(other)
    other[cells.EDGES.index((0, 6))] = 0
    assert cells.canonical(one) == cells.canonical(other)
    assert cells.canonical(one) != cells.canonical(cell([(0, 1), (1, 2), (2, 3)], THREE, ONE))


def test_the_cell_adds_cuts_and_concatenates():
    """All by hand but for the projections and convolutions, which are read from the module."""
    arch = cell([(0, 1), (1, 2), (0, 2), (1, 3), (2, 3), (0, 3)], THREE, POOL)
    module = Cell(cells.to_graph(arch), 5)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    variables = jax.jit(module.init)(jax.random.key(1), x)
    seen = {"mutable": ["intermediates"], "capture_intermediates": True}
    y, state = jax.jit(lambda v, x: module.apply(v, x, **seen))(variables, x)
    found = {
        name: value["__call__"][0]
        for name, value in state["intermediates"].items()
        if name != "__call__"
    }
    assert {k: v.shape[-1] for k, v in found.items()} == {
        "projection_1": 3, "vertex_1": 3, "projection_2": 2, "projection_3": 5,
    }  # fmt: skip
    added = found["vertex_1"][..., :2] + found["projection_2"]
    padded = np.pad(added, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    pooled = np.max([padded[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3)], 0)
    expected = jnp.concatenate([found["vertex_1"], pooled], -1) + found["projection_3"]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_the_cost_is_that_of_the_module(drawn):
    space = sj.make_space("nas_bench_101", channels=3, num_classes=4, image_shape=(9, 12, 3))
    found = [arch for arch in drawn if space.is_connected(one_hot(arch))][:2]
    for arch in found:
        assert tuple(space.cost(arch)) == traced_cost(space, arch)
    assert space.cost(np.zeros(26, np.int32)).depth == 0


def test_mutations_of_cells_are_cells(drawn):
    archs = np.stack([arch for arch in drawn if cells.is_connected(one_hot(arch))])
    keys = jax.random.split(jax.random.key(0), len(archs))
    children = np.asarray(jax.jit(jax.vmap(mutate))(keys, archs))
    assert ((children != archs).sum(1) == 1).all()
    assert all(cells.is_connected(one_hot(child)) for child in children)
    assert (children != archs).any(0).all()


def test_cells_that_the_benchmark_has_not_are_one_sentence_or_ranked_last():
    apart = np.zeros(26, np.int32)
    full = np.ones(26, np.int32)
    space = sj.make_space("nas_bench_101", channels=2, image_shape=(4, 4, 3))
    for arch, message in ((apart, r"no path.*allowed"), (full, r"21 edges.*allowed: at most 9")):
        assert not space.is_connected(one_hot(arch))
        for ask in (space.specialise, lambda arch: sj.trained_cost(arch, space)):
            with pytest.raises(ValueError, match=message):
                ask(arch)
    with pytest.raises(ValueError, match=r"21 edges.*allowed: at most 9"):
        space.from_string(space.to_string(full))
    assert space.is_connected(np.ones((26, 3), bool))  # a supernet is no cell


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "allowed: 56 numbers"),
        ("(0,1)", "allowed: 56 numbers"),
        ("(" + "0," * 49 + "0,7,2,2,2,2,1)", r"operations \[0, 7.*3x3 max-pool"),
        ("(1," + "0," * 48 + "0,2,2,2,2,2,1)", "ones above the diagonal"),
    ],
)
def test_a_wrong_text_is_one_sentence(text, message):
    with pytest.raises(ValueError, match=message):
        cells.from_string(text)


def test_a_wrong_graph_is_one_sentence():
    with pytest.raises(ValueError, match=r"shape \(8, 8\); allowed: \(2, 2\) to \(7, 7\)"):
        cells.from_graph(np.zeros((8, 8), int), [])
    with pytest.raises(ValueError, match="of 3 vertices; allowed: 1 of"):
        cells.from_graph(np.zeros((3, 3), int), ["conv_5x5"])


def test_a_drawing_names_vertices():
    arch = cell([(0, 1), (1, 2)], THREE)
    assert cells.drawing(arch) == [("input", "1 conv_3x3", ""), ("1 conv_3x3", "output", "")]
