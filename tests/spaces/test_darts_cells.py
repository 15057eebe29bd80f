"""DARTS genotypes: texts, encoding and costs against the published tables."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saboc_jax.spaces.darts import cells, codec, costs


def rows(name):
    folder = os.environ.get("SABOC_DATA_DIR")
    path = Path(folder or "", name)
    if not folder or not path.is_file():
        pytest.skip(f"{name} is not in SABOC_DATA_DIR")
    with path.open() as file:
        return list(csv.DictReader(file))


architectures = st.tuples(*(st.integers(0, number - 1) for number in cells.CHOICES)).map(np.array)


def one_cell():
    edges = [
        st.tuples(st.sampled_from(cells.OPERATIONS), st.integers(0, 1 + edge // 2))
        for edge in range(8)
    ]
    return st.tuples(*edges)


genotypes = st.builds(cells.make_genotype, one_cell(), one_cell())


@given(genotypes)
def test_genotypes_survive_both_texts(genotype):
    assert codec.read_genotype(codec.write_genotype(genotype)) == genotype
    normal, reduce = map(codec.write_row, genotype.cells())
    assert codec.read_rows(normal, reduce) == genotype


@given(architectures)
def test_architectures_survive_their_text_but_for_edges_nobody_keeps(arch):
    text = codec.to_string(arch)
    again = codec.from_string(text)
    assert codec.to_string(again) == text
    np.testing.assert_array_equal(again[cells.FIRST_PAIR :], arch[cells.FIRST_PAIR :])
    kept = cells.kept_edges(np.arange(10) == arch[:, None]).ravel()
    np.testing.assert_array_equal(again[: cells.FIRST_PAIR], np.where(kept, arch[:28], 0))


def test_text_is_the_common_one():
    edges = "[('sep_conv_3x3', 0), ('none', 1)" + ", ('skip_connect', 0), ('none', 1)" * 3 + "]"
    joined = "[2, 3, 4, 5]"
    text = (
        f"Genotype(normal={edges}, normal_concat={joined}, reduce={edges}, reduce_concat={joined})"
    )
    assert codec.to_string(codec.from_string(text)) == text
    assert codec.to_string(codec.from_string(text.replace(joined, "range(2, 6)"))) == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sep_conv_3x3", "conv", "'conv' is unknown"),
        ("('sep_conv_3x3', 0)", "('sep_conv_3x3', 2)", "reads 2"),
        ("('sep_conv_3x3', 0), ", "", "has 7 edges"),
        ("('none', 1)", "('skip_connect', 0)", "two different"),
        ("('none', 1)", "('sep_conv_3x3', 0)", "two different"),
        ("('sep_conv_3x3', 0)", "__import__('os')", "no literal"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=[2, 3]", "allowed: the nodes"),
        ("Genotype(", "Genes(", "no Genotype"),
        ("Genotype(", "Genotype((", "cannot be read"),
    ],
)
def test_wrong_texts_are_named(old, new, message):
    edge = "('sep_conv_3x3', 0), ('none', 1)"
    edges = f"[{edge}, {', '.join(['(' + repr('none') + f', {i % 2})' for i in range(6)])}]"
    text = codec.write_genotype(codec.read_genotype(
        f"Genotype(normal={edges}, normal_concat=[2, 3, 4, 5], "
        f"reduce={edges}, reduce_concat=[2, 3, 4, 5])"
    ))  # fmt: skip
    with pytest.raises(ValueError, match=message):
        codec.from_string(text.replace(old, new, 1))


def test_all_published_parameters_and_flops_are_reproduced():
    table = rows("darts_nb301_surrogate.csv")
    assert len(table) == 725
    for row in table:
        genotype = codec.read_rows(row["normal"], row["reduce"])
        counted = costs.cost(genotype, costs.PUBLISHED).params
        assert counted == round(float(row["params"]) * 1e6)
        assert costs.published_flops(genotype) == round(float(row["flops"]) * 1e6)
        again = cells.to_genotype(cells.from_genotype(genotype))
        for cell, same in zip(genotype.cells(), again.cells(), strict=True):
            for node in range(0, 8, 2):
                assert sorted(cell[node : node + 2]) == sorted(same[node : node + 2])


def test_swap_genotypes_are_read_and_written():
    table = rows("darts_swap1000.csv")
    for row in table:
        assert codec.write_genotype(codec.read_genotype(row["genotype"])) == row["genotype"]


def test_few_of_the_swap_genotypes_have_two_inputs_for_every_node():
    found = 0
    for row in rows("darts_swap1000.csv"):
        genotype = codec.read_genotype(row["genotype"])
        pairs = [genotype.normal[node : node + 2] for node in range(0, 8, 2)]
        alike = any(a[1] == b[1] and "none" not in (a[0], b[0]) for a, b in pairs)
        if alike:
            with pytest.raises(ValueError, match="two different ones"):
                cells.from_genotype(genotype)
            continue
        found += 1
        again = cells.to_genotype(cells.from_genotype(genotype))
        for edges, same in zip(genotype.cells(), again.cells(), strict=True):
            for node in range(0, 8, 2):
                pair, other = ([e for e in each[node : node + 2] if e[0] != "none"]
                               for each in (edges, same))  # fmt: skip
                assert sorted(pair) == sorted(other)
    assert found == 282


def test_connection_needs_an_operation_in_each_cell():
    arch = np.zeros(len(cells.CHOICES), int)
    mask = np.arange(10) == arch[:, None]
    assert not cells.is_connected(mask)
    mask[0, 1] = mask[cells.NUM_EDGES, 1] = True  # both first edges copy input 0
    assert cells.is_connected(mask)
    mask[0, 1] = False
    assert not cells.is_connected(mask)


def test_parameters_of_one_genotype_at_the_default_size_do_not_change():
    """Of the genotype known as DARTS_V2, C=36 and 20 cells, as the formulas count it."""
    sep, skip, pool = "sep_conv_3x3", "skip_connect", "max_pool_3x3"
    normal = ((sep, 0), (sep, 1), (sep, 0), (sep, 1), (sep, 1), (skip, 0), (skip, 0))
    reduce = ((pool, 0), (pool, 1), (skip, 2), (pool, 1), (pool, 0), (skip, 2), (skip, 2))
    genotype = cells.make_genotype((*normal, ("dil_conv_3x3", 2)), (*reduce, (pool, 1)))
    assert costs.cost(genotype).params == 3_349_342
