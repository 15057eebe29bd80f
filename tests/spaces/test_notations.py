"""Architectures as other tools write them: read, or one sentence with an example of what is."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saboc_jax.spaces import OWN_SPACES, make_space
from saboc_jax.spaces.darts import codec
from saboc_jax.spaces.nas_bench_101 import cells as nas_bench_101
from saboc_jax.spaces.nas_bench_201 import cells, texts
from saboc_jax.spaces.notations import read_notation, tidy

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"
ARCH = [3, 3, 2, 1, 4, 0]
EDGES = [("sep_conv_3x3", 0), ("sep_conv_3x3", 1), *[("skip_connect", 0), ("max_pool_3x3", 1)] * 3]
GENOTYPE = (
    f"Genotype(normal={EDGES}, normal_concat=range(2, 6), reduce={EDGES}, "
    "reduce_concat=range(2, 6))"
)
NODES = [tuple(EDGES[first : first + 2]) for first in range(0, 8, 2)]
PAIRS = "((0, 3), (1, 3), (0, 2), (1, 0), (0, 2), (1, 0), (0, 2), (1, 0))"
SOURCES = {0: 0, 1: 1, 2: 0, 3: 1, 5: 0, 6: 1, 9: 0, 10: 1}  # edge number: input
CONFIGURATION = {
    f"NetworkSelectorDatasetInfo:darts:edge_{cell}_{edge}": EDGES[place][0]
    for cell in ("normal", "reduce")
    for place, edge in enumerate(SOURCES)
} | {"NetworkSelectorDatasetInfo:darts:inputs_node_normal_3": "0_1"}


@pytest.fixture(scope="module")
def spaces():
    return {name: make_space(name) for name in ("nas_bench_201", "darts", "darts_genotypes")}


@pytest.mark.parametrize(
    "text",
    [
        CELL,
        f'"{CELL}"',
        "\ufeff" + CELL,
        f"best_arch = '{CELL}',",
        CELL.replace("+", "\n + "),
        f"Structure(4 nodes with {CELL})",
        f"arch = CellStructure(4 nodes with {CELL})",
        "[(('nor_conv_3x3', 0),), (('nor_conv_3x3', 0), ('nor_conv_1x1', 1)), "
        "(('skip_connect', 0), ('avg_pool_3x3', 1), ('none', 2))]",
        "[3 3 2 1 4 0]",
        "(3, 3, 2, 1, 4, 0)",
        "([[0, 1, 1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0], "
        "[0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1], "
        "[0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0]], ['input', 'nor_conv_3x3', "
        "'nor_conv_3x3', 'nor_conv_1x1', 'skip_connect', 'avg_pool_3x3', 'none', 'output'])",
        "array([3, 3, 2, 1, 4, 0])",
    ],
)
def test_cells_as_they_are_pasted(spaces, text):
    assert spaces["nas_bench_201"].from_string(text).tolist() == ARCH


@pytest.mark.parametrize(
    "text",
    [
        GENOTYPE,
        "DARTS_V2 = " + GENOTYPE,
        "Genotype = genotypes." + GENOTYPE,
        GENOTYPE.replace("range(2, 6)", "list(range(2, 6))"),
        GENOTYPE.replace("(2, 6)", "(2, 6, 1)"),
        f"Genotype({EDGES}, [2, 3, 4, 5], {EDGES}, [2, 3, 4, 5])",
        f"Genotype(normal={NODES}, normal_concat=[2, 3, 4, 5], reduce={NODES}, "
        "reduce_concat=[2, 3, 4, 5])",
        f"{{'normal': {NODES}, 'reduce': {EDGES}}}",
        f"({PAIRS}, {PAIRS})",
        f"[{PAIRS}, {PAIRS}]".replace("(", "[").replace(")", "]"),
        str(CONFIGURATION),
        " / ".join([" ".join(f"{name}@{source}" for name, source in EDGES)] * 2),
    ],
)
@pytest.mark.parametrize("name", ["darts", "darts_genotypes"])
def test_genotypes_as_they_are_pasted(spaces, name, text):
    space = spaces[name]
    assert space.to_string(space.from_string(text)) == codec.write_genotype(
        codec.read_genotype(GENOTYPE)
    )


M101 = [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
OPS101 = ["input", "conv3x3-bn-relu", "maxpool3x3", "output"]
CELL101 = nas_bench_101.from_graph(M101, ["conv_3x3", "max_pool_3x3"])


@pytest.mark.parametrize(
    "text",
    [
        nas_bench_101.to_string(CELL101),
        f"'{nas_bench_101.to_string(CELL101)}'",
        f"ModelSpec(matrix={M101}, ops={OPS101})",
        f"spec = api.ModelSpec(ops={OPS101}, matrix=np.array({M101}))",
        f"matrix={M101}, ops={OPS101}",
        f"({M101}, ['input', 'conv_3x3', 'max_pool_3x3', 'output'])",
        f"{{'module_adjacency': array({M101}), 'module_operations': {OPS101}}}",
        "0110/0010/0001/0000 0-4-2-1",
        "[" + ", ".join(map(str, CELL101)) + "]",
    ],
)
def test_graphs_as_they_are_pasted(text):
    assert make_space("nas_bench_101").from_string(text).tolist() == CELL101.tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"({M101}, ['input', 'conv3x3', 'maxpool3x3', 'output'])", r"operations \['conv3x3'\]"),
        (f"({M101}, {OPS101[:3]})", "3 operations of 4 vertices"),
        (f"({M101[:3]}, {OPS101})", "no square matrix"),
        ("([[0, 1], [0]], ['input', 'output'])", "unequal length"),
        (f"({M101}, {OPS101[::-1]})", "the first is input, the last output"),
        (f"({[row[::-1] for row in M101]}, {OPS101})", "ones above the diagonal"),
    ],
)
def test_wrong_graphs_are_named(text, said):
    with pytest.raises(ValueError, match=said):
        make_space("nas_bench_101").from_string(text)


@pytest.mark.parametrize(
    "text",
    ["16:8:64:32:32", "16x8x64x32x32", "(16, 8, 64, 32, 32)", "16 8 64 32 32", "'16:8:64:32:32'",
     "16 × 8 × 64 × 32 × 32", "[1, 0, 7, 3, 3]", "channels = 16-8-64-32-32"],
)  # fmt: skip
def test_sizes_as_they_are_pasted(text):
    assert make_space("nats_sss").from_string(text).tolist() == [1, 0, 7, 3, 3]
    assert read_notation((16, 8, 64, 32, 32), make_space("nats_sss")).tolist() == [1, 0, 7, 3, 3]


@pytest.mark.parametrize(
    ("name", "text", "arch"),
    [
        ("nas_bench_macro", "(0, 2, 1, 2, 0, 0, 1, 2)", [0, 2, 1, 2, 0, 0, 1, 2]),
        ("nas_bench_macro", '"02120012"', [0, 2, 1, 2, 0, 0, 1, 2]),
        ("nas_bench_macro", "0 2 1 2 0 0 1 2", [0, 2, 1, 2, 0, 0, 1, 2]),
        ("transnas_micro", "arch = 64-41414-0_12_301", [0, 1, 2, 3, 0, 1]),
        ("transnas_macro", "64-1234-basic", [0, 1, 2, 3, 0, 0]),
        ("transnas_macro", "(1,2,3,4,1,1)", [0, 1, 2, 3, 1, 1]),
    ],
)
def test_other_spaces(name, text, arch):
    assert make_space(name).from_string(text).tolist() == arch


def test_a_long_text_is_refused_at_once():
    for text in ("(" * 90_000, "[[" * 40_000 + "'", "0 " * 49_000, "|" * 99_000, "1" * 10**6):
        start = time.perf_counter()
        for name in ("nas_bench_101", "nas_bench_201", "nats_sss"):
            with pytest.raises(ValueError, match=r"allowed"):
                make_space(name).from_string(text)
        assert time.perf_counter() - start < 3


def test_numbers_are_ours_unless_naslib_is_named(spaces):
    space = spaces["nas_bench_201"]
    for given_numbers in (ARCH, tuple(ARCH), np.array(ARCH), str(ARCH)):
        assert read_notation(given_numbers, space).tolist() == ARCH
    # NASLib: edges by the node they leave; skip, none, 3x3, 1x1, pool are 0 to 4.
    for given_numbers in ([2, 2, 0, 3, 4, 1], "(2, 2, 0, 3, 4, 1)"):
        assert read_notation(given_numbers, space, "naslib").tolist() == ARCH


def test_objects_of_other_tools_are_read_as_they_print(spaces):
    genotype = codec.read_genotype(GENOTYPE)
    space = spaces["darts_genotypes"]
    assert space.to_string(read_notation(genotype, space)) == codec.write_genotype(genotype)


@given(st.lists(st.integers(0, 4), min_size=6, max_size=6))
def test_naslibs_numbers_name_every_edge_once(numbers):
    arch = texts.read_naslib(str(numbers))
    for edge, number in zip(texts.NASLIB_EDGES, numbers, strict=True):
        option = arch[cells.EDGES.index(edge)]
        assert cells.OPERATIONS[option] == texts.NASLIB_OPERATIONS[number]


@pytest.mark.parametrize("name", sorted(OWN_SPACES))
def test_every_example_of_a_notation_is_read(name):
    space = make_space(name)
    for notation in space.decisions.notations:
        if "..." not in notation.example:
            assert len(read_notation(notation.example, space, notation.name)) == len(space.choices)


@pytest.mark.parametrize("name", ["nas_bench_201", "darts"])
@pytest.mark.parametrize(
    "text",
    ["", "x", "(1, 2, 3)", "[[1, 2], 3", "Structure(4 nodes with |a|)", "Genotype(normal=[])", "{}",
     "{'normal': 3, 'reduce': 1}", "[[[0, 9]], 3]", "(" * 3000, "-1 " * 40, "9" * 20 + ", 1",
     f"({PAIRS.replace('(0, 3)', '(0, 7)')}, {PAIRS})", "[(('none', 0),), 3, 4]", "\0", "a = = b"],
)  # fmt: skip
def test_what_is_not_understood_is_one_sentence_with_an_example(spaces, name, text):
    with pytest.raises(ValueError, match=f"allowed in space {name}: e.g. ") as error:
        spaces[name].from_string(text)
    assert "\n" not in str(error.value)


def test_a_text_of_another_space_names_that_space(spaces):
    with pytest.raises(ValueError, match="it is an architecture of space darts"):
        spaces["nas_bench_201"].from_string("G = " + GENOTYPE)
    with pytest.raises(ValueError, match=r"it is an architecture of space nas_bench_201$"):
        spaces["darts"].from_string(f"Structure(4 nodes with {CELL})")


def test_a_wrong_notation_lists_the_right_ones(spaces):
    with pytest.raises(ValueError, match=r"notation='nasbench'.*allowed: .*structure.*naslib"):
        read_notation(CELL, spaces["nas_bench_201"], "nasbench")
    with pytest.raises(ValueError, match=r"allowed in notation 'naslib': e.g. \(4, 0"):
        read_notation("(1, 2)", spaces["nas_bench_201"], "naslib")


def test_a_field_of_a_csv_file_loses_its_quotes():
    assert tidy('"{""base_dim"":40}"') == '{"base_dim":40}'
    assert tidy(" “x = 3”; ") == "3" and tidy("a == b") == "a == b"
