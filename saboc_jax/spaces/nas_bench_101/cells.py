"""NAS-Bench-101 cells as data: graphs of at most seven vertices, their texts and their classes.

A cell (Ying et al., 2019) is a directed acyclic graph. Vertex 0 is its input, the last one its
output, and each of the others has one of three operations. An architecture is 26 choices: for each
of the 21 pairs (source, target) in the order of `EDGES`, whether there is an edge, then the
operation of each of the five inner vertices. Vertices on no path from input to output are removed
before the network is built; a smaller graph leaves vertices without edges. The benchmark trained
graphs that have at most nine edges then.

Texts are tuples of 56 numbers, as in published tables: the 7 x 7 adjacency matrix by rows, then the
operation of each vertex (0 input, 1 output, 2 3x3 max-pool, 3 1x1 and 4 3x3 convolution).
"""

import ast
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from saboc_jax.spaces.masks import as_gates, check_architecture
from saboc_jax.types import Architecture, Decisions

VERTICES = 7
MAX_EDGES = 9  # of a cell once vertices on no path are removed
EDGES = tuple(itertools.combinations(range(VERTICES), 2))
OPERATIONS = ("max_pool_3x3", "conv_1x1", "conv_3x3")
CHOICES = (2,) * len(EDGES) + (len(OPERATIONS),) * (VERTICES - 2)
OPTION_NAMES = (("none", "edge"),) * len(EDGES) + (OPERATIONS,) * (VERTICES - 2)

_INPUT, _OUTPUT, _FIRST = range(3)  # numbers of a text; an operation's are `_FIRST` and more
_LENGTH = VERTICES**2 + VERTICES


class Graph(NamedTuple):
    """A cell without vertices that lie on no path from input to output.

    Attributes:
        edges: (source, target), sorted; () if no path joins input and output.
        operations: the name of the operation of each vertex between input and output.
    """

    edges: tuple[tuple[int, int], ...]
    operations: tuple[str, ...]

    @property
    def output(self) -> int:
        """The number of the output vertex."""
        return len(self.operations) + 1


def to_graph(arch: Architecture) -> Graph:
    """Returns the graph of an architecture [26]; ValueError if it is malformed."""
    options = check_architecture(arch, CHOICES)
    edges = [edge for edge, there in zip(EDGES, options, strict=False) if there]
    kept = _on_paths(edges)
    number = {vertex: place for place, vertex in enumerate(kept)}
    return Graph(
        tuple((number[a], number[b]) for a, b in edges if a in number and b in number),
        tuple(OPERATIONS[options[len(EDGES) + vertex - 1]] for vertex in kept[1:-1]),
    )


def trained_graph(arch: Architecture) -> Graph:
    """Returns the graph of an architecture that the benchmark has.

    Raises:
        ValueError: if no path joins its input and output, or it has too many edges.
    """
    graph = to_graph(arch)
    if not graph.edges:
        raise ValueError(
            f"cell {to_string(arch)} has no path from input to output; allowed: cells with one"
        )
    return _checked_edges(graph)


def _checked_edges(graph: Graph) -> Graph:
    if len(graph.edges) > MAX_EDGES:
        raise ValueError(
            f"the cell has {len(graph.edges)} edges between vertices on paths from input to "
            f"output; allowed: at most {MAX_EDGES}"
        )
    return graph


def _on_paths(edges: Sequence[tuple[int, int]]) -> list[int]:
    """Returns the vertices on paths from input to output; at least input and output."""
    ahead, behind = {0}, {VERTICES - 1}
    for source, target in edges:  # sorted by source, so all edges into a source came before
        ahead |= {target} if source in ahead else set()
    for source, target in sorted(edges, key=lambda edge: -edge[1]):
        behind |= {source} if target in behind else set()
    return sorted(ahead & behind | {0, VERTICES - 1})


def from_graph(matrix: Any, operations: Sequence[str]) -> Architecture:
    """Returns the architecture of an adjacency matrix and operations by name.

    Args:
        matrix: [v, v] zeros and ones above the diagonal; at most seven vertices.
        operations: names of the operations of the inner vertices, of `OPERATIONS`.

    Raises:
        ValueError: if they are no cell, or the cell has too many edges.
    """
    adjacency = np.asarray(matrix)
    size = len(adjacency)
    if adjacency.shape != (size, size) or not 2 <= size <= VERTICES:
        raise ValueError(f"a matrix of shape {adjacency.shape}; allowed: (2, 2) to (7, 7)")
    if not np.isin(adjacency, (0, 1)).all() or np.tril(adjacency).any():
        raise ValueError(
            f"matrix {adjacency.tolist()}; allowed: zeros and ones, with ones above the diagonal"
        )
    if len(operations) != size - 2 or not set(operations) <= set(OPERATIONS):
        raise ValueError(
            f"operations {list(operations)} of {size} vertices; allowed: {size - 2} of "
            f"{', '.join(OPERATIONS)}"
        )
    place = [*range(size - 1), VERTICES - 1]  # vertices without edges fill up to seven
    found = {(place[a], place[b]) for a, b in np.argwhere(adjacency)}
    options = [OPERATIONS.index(name) for name in operations]
    arch = [edge in found for edge in EDGES] + options + [0] * (VERTICES - size)
    _checked_edges(to_graph(np.array(arch, np.int32)))
    return np.array(arch, np.int32)


def to_string(arch: Architecture) -> str:
    """Writes an architecture as a tuple of 56 numbers."""
    options = check_architecture(arch, CHOICES)
    matrix = np.zeros((VERTICES, VERTICES), int)
    matrix[tuple(np.transpose(EDGES))] = options[: len(EDGES)]
    numbers = [_INPUT, *(_FIRST + options[len(EDGES) :]), _OUTPUT]
    return "(" + ",".join(map(str, [*matrix.ravel(), *numbers])) + ")"


def from_string(text: str) -> Architecture:
    """Reads what `to_string` writes, with brackets of either kind and spaces.

    Raises:
        ValueError: if the text is malformed, or the cell has too many edges.
    """
    try:
        numbers = [int(number) for number in ast.literal_eval(text.strip())]
    except (ValueError, SyntaxError, TypeError):
        numbers = []
    if len(numbers) != _LENGTH:
        raise ValueError(
            f"cell {text!r}; allowed: {_LENGTH} numbers, the 7 x 7 adjacency matrix by rows and "
            "seven operations, as in (0,1,0,0,0,0,1,...,0,4,3,2,2,2,1)"
        )
    matrix = np.reshape(numbers[: VERTICES**2], (VERTICES, VERTICES))
    ends, inner = numbers[VERTICES**2 :: VERTICES - 1], numbers[VERTICES**2 + 1 : -1]
    known = range(_FIRST, _FIRST + len(OPERATIONS))
    if ends != [_INPUT, _OUTPUT] or not set(inner) <= set(known):
        raise ValueError(
            f"operations {numbers[VERTICES**2 :]} of cell {text!r}; allowed: 0, then five of "
            "2 (3x3 max-pool), 3 (1x1 convolution) and 4 (3x3 convolution), then 1"
        )
    return from_graph(matrix, [OPERATIONS[number - _FIRST] for number in inner])


def canonical(arch: Architecture) -> str:
    """Returns a text that isomorphic cells share: the first of all orders of inner vertices."""
    graph = to_graph(arch)
    inner = len(graph.operations)

    def ordered(order: tuple[int, ...]) -> tuple[Any, ...]:
        place = [0, *(1 + order.index(vertex) for vertex in range(inner)), graph.output]
        edges = tuple(sorted((place[a], place[b]) for a, b in graph.edges))
        return tuple(graph.operations[vertex] for vertex in order), edges

    operations, edges = min(map(ordered, itertools.permutations(range(inner))))
    return f"{'-'.join(operations)}|{' '.join(f'{a}>{b}' for a, b in edges)}"


def is_connected(mask: Any) -> bool:
    """Returns whether a path joins input and output, with no more edges than the benchmark has.

    In a supernet all possible edges count as edges, as many as there are.

    Args:
        mask: [26, 3] booleans or gates; non-zero entries are active.
    """
    active: Bool[np.ndarray, "26 3"] = np.asarray(mask) != 0
    if active.shape != (len(CHOICES), len(OPERATIONS)):
        raise ValueError(f"mask has shape {active.shape}; a cell's mask has shape (26, 3)")
    graph = to_graph(np.array([*active[: len(EDGES), 1], *[0] * (VERTICES - 2)], np.int32))
    is_cell = (active.sum(1) == 1).all()
    return bool(graph.edges) and (len(graph.edges) <= MAX_EDGES or not is_cell)


def drawing(arch: Architecture) -> list[tuple[str, str, str]]:
    """Returns the (source, target, "") edges between vertices named by their operations."""
    graph = to_graph(arch)
    inner = [f"{vertex} {name}" for vertex, name in enumerate(graph.operations, start=1)]
    names = ["input", *inner, "output"]
    return [(names[a], names[b], "") for a, b in graph.edges]


DECISIONS = Decisions(
    choices=CHOICES,
    option_names=OPTION_NAMES,
    to_string=to_string,
    from_string=from_string,
    gates=partial(as_gates, choices=CHOICES),
    canonical=canonical,
    is_connected=is_connected,
)
