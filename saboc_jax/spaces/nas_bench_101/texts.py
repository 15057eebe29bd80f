"""NAS-Bench-101 cells as its own API, NASLib and papers write them."""

from saboc_jax.spaces.graph_texts import looks_like_graph, read_graph
from saboc_jax.spaces.nas_bench_101 import cells
from saboc_jax.spaces.notations import numbers_notation, reading
from saboc_jax.types import Architecture, Notation

EXAMPLE = (
    "(0,1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,1,0,0,0,0,0,"
    "0,0,0,4,3,2,4,4,1)"
)
NAMES = {
    "maxpool3x3": "max_pool_3x3",
    "conv1x1-bn-relu": "conv_1x1",
    "conv3x3-bn-relu": "conv_3x3",
    "2": "max_pool_3x3",
    "3": "conv_1x1",
    "4": "conv_3x3",
} | {name: name for name in cells.OPERATIONS}
_ENDS = (("input", "0", "in"), ("output", "1", "out"))
_MATRIX = (
    "ModelSpec(matrix=[[0, 1, 0], [0, 0, 1], [0, 0, 0]], ops=['input', 'maxpool3x3', 'output'])"
)


def read_matrix(text: str) -> Architecture:
    """Reads an adjacency matrix of 2 to 7 vertices with the names or numbers of operations."""
    matrix, names = read_graph(text)
    for name, allowed in zip((names[0], names[-1]), _ENDS, strict=True):
        if name not in allowed:
            raise ValueError(f"operations {names}; allowed: the first is input, the last output")
    unknown = sorted(set(names[1:-1]) - set(NAMES))
    if unknown:
        raise ValueError(f"operations {unknown}; allowed: {', '.join(NAMES)}")
    return cells.from_graph(matrix, [NAMES[name] for name in names[1:-1]])


NOTATIONS = (
    Notation("matrix", _MATRIX, read_matrix, looks_like_graph),
    # A tuple of this length is no list of options: what is wrong with the cell is the error.
    Notation(
        "naslib", EXAMPLE, cells.from_string, lambda text: text.count(",") > len(cells.EDGES) * 2
    ),
    numbers_notation(cells.CHOICES),
)
DECISIONS = cells.DECISIONS._replace(
    from_string=reading("nas_bench_101", cells.from_string, EXAMPLE, NOTATIONS),
    notations=NOTATIONS,
)
