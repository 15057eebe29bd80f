"""NAS-Bench-201 cells as AutoDL, NATS-Bench and NASLib write them."""

import re

import numpy as np

from saboc_jax.spaces.graph_texts import looks_like_graph, read_graph
from saboc_jax.spaces.masks import check_architecture
from saboc_jax.spaces.nas_bench_201 import cells
from saboc_jax.spaces.notations import integers, literal, numbers_notation, reading, shown
from saboc_jax.types import Architecture, Notation

CHOICES = cells.DECISIONS.choices
EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
# NASLib numbers the operations in this order, and the edges by the node that they leave.
NASLIB_OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
NASLIB_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
_MATRIX = np.zeros((8, 8), int)
_MATRIX[[0, 0, 0, 1, 1, 2, 3, 4, 5, 6], [1, 2, 4, 3, 5, 6, 6, 7, 7, 7]] = 1
_STRUCTURE = re.compile(r"\w+\(\d+ nodes with (.*)\)", re.S)
_NESTED = re.compile(r"[\[(]\s*[\[(]\s*[\[(]\s*['\"]")


def _without_spaces(text: str) -> Architecture:
    return cells.from_string(re.sub(r"\s+", "", text))


def read_structure(text: str) -> Architecture:
    """Reads `Structure(4 nodes with |...|)`, as AutoDL's and NATS-Bench's cells print."""
    found = _STRUCTURE.fullmatch(text)
    if not found:
        raise ValueError(f"{shown(text)} is no Structure(4 nodes with ...)")
    return _without_spaces(found[1])


def read_nested(text: str) -> Architecture:
    """Reads the list of each node's (operation, source), as AutoDL's `Structure.nodes`."""
    nodes = literal(text)
    try:
        edges = {
            (int(source), target): str(name)
            for target, node in enumerate(nodes, start=1)
            for name, source in node
        }
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown(text)} is no list of a node's (operation, source)") from error
    if set(edges) != set(cells.EDGES) or sum(map(len, nodes)) != len(edges):
        raise ValueError(f"{shown(text)} has the edges {sorted(edges)}; allowed: {cells.EDGES}")
    parts = (
        [f"{edges[edge]}~{edge[0]}" for edge in cells.EDGES if edge[1] == n] for n in (1, 2, 3)
    )
    return cells.from_string("+".join(f"|{'|'.join(part)}|" for part in parts))


def read_naslib(text: str) -> Architecture:
    """Reads NASLib's six numbers: its operations on the edges in its order."""
    number = len(NASLIB_OPERATIONS)
    given = check_architecture(integers(text), (number,) * len(NASLIB_EDGES))
    names = dict(zip(NASLIB_EDGES, (NASLIB_OPERATIONS[option] for option in given), strict=True))
    return check_architecture(
        [cells.OPERATIONS.index(names[edge]) for edge in cells.EDGES], CHOICES
    )


def read_matrix(text: str) -> Architecture:
    """Reads the matrix of eight vertices: input, one for each edge of the cell, output."""
    matrix, names = read_graph(text)
    if matrix.shape != _MATRIX.shape or (matrix != _MATRIX).any():
        raise ValueError(f"matrix {matrix.tolist()}; allowed: {_MATRIX.tolist()}")
    wrong = sorted(set(names[1:-1]) - set(cells.OPERATIONS))
    if wrong or (names[0], names[-1]) != ("input", "output"):
        raise ValueError(
            f"operations {names}; allowed: input, six of {', '.join(cells.OPERATIONS)}, output"
        )
    return check_architecture([cells.OPERATIONS.index(name) for name in names[1:-1]], CHOICES)


NOTATIONS = (
    Notation("cell", EXAMPLE, _without_spaces, lambda text: text.startswith("|")),
    Notation(
        "structure", f"Structure(4 nodes with {EXAMPLE})", read_structure, _STRUCTURE.fullmatch
    ),
    Notation(
        "nodes",
        "[(('none', 0),), (('none', 0), ('none', 1)), (('none', 0), ('none', 1), ('none', 2))]",
        read_nested,
        _NESTED.match,
    ),
    Notation(
        "matrix",
        f"({_MATRIX.tolist()}, ['input', 'none', 'none', 'none', 'skip_connect', 'none', 'none', "
        "'output'])",
        read_matrix,
        looks_like_graph,
    ),
    Notation("naslib", "(4, 0, 3, 1, 4, 3)", read_naslib),
    numbers_notation(CHOICES),
)
DECISIONS = cells.DECISIONS._replace(
    from_string=reading("nas_bench_201", cells.from_string, EXAMPLE, NOTATIONS),
    notations=NOTATIONS,
)
