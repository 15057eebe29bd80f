"""Cells of TransNAS-Bench-101 as data: text, isomorphism, connection.

A cell (Duan et al., 2021) has the nodes and edges of one of NAS-Bench-201, and four operations. In
the first cell of a module that halves the image, an edge from the input has stride 2, where a skip
is two 1x1 convolutions and a batch norm. Texts are tuples as in published tables, "(0,1,2,3,0,1)";
the benchmark's own "64-41414-0_12_301" is read as well.
"""

import ast
import re
from functools import partial
from typing import Any

import numpy as np

from saboc_jax.spaces.masks import as_gates, check_architecture
from saboc_jax.spaces.nas_bench_201.cells import EDGES, NUM_NODES
from saboc_jax.types import Architecture, Decisions

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
CHOICES = (len(OPERATIONS),) * len(EDGES)
SKELETON = (4, 1, 4, 1, 4)  # types of the modules of cells


def operations(arch: Architecture) -> tuple[str, ...]:
    """Returns the name of the operation on each edge."""
    return tuple(OPERATIONS[option] for option in check_architecture(arch, CHOICES))


def to_string(arch: Architecture) -> str:
    """Writes the numbers of the operations, as in "(0,1,2,3,0,1)"."""
    return f"({','.join(map(str, check_architecture(arch, CHOICES)))})"


def from_string(text: str) -> Architecture:
    """Reads what `to_string` writes, or the benchmark's own text.

    Raises:
        ValueError: if the text is malformed.
    """
    own = re.fullmatch(r"64-41414-(\d)_(\d\d)_(\d\d\d)", text.strip())
    numbers = list(map(int, "".join(own.groups()))) if own else whole_numbers(text)
    if len(numbers) != len(EDGES) or not set(numbers) <= set(range(len(OPERATIONS))):
        raise ValueError(
            f"cell {text!r}; allowed: six numbers from 0 to 3, as in (0,1,2,3,0,1) or "
            "64-41414-0_12_301"
        )
    return np.array(numbers, np.int32)


def whole_numbers(text: str) -> list[int]:
    """Returns the numbers of a tuple or list in a text; [] if it is none."""
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return []
    numbers = list(found) if isinstance(found, tuple | list) else []
    return numbers if all(type(number) is int for number in numbers) else []


def is_connected(mask: Any) -> bool:
    """Returns whether active operations other than `none` connect input and output.

    Args:
        mask: [6, 4] booleans or gates; non-zero entries are active.
    """
    active = np.asarray(mask) != 0
    if active.shape != (len(EDGES), len(OPERATIONS)):
        raise ValueError(f"mask has shape {active.shape}; a cell's mask has shape (6, 4)")
    reached = {0}
    for (source, target), is_open in zip(EDGES, active[:, 1:].any(1), strict=True):
        reached |= {target} if is_open and source in reached else set()
    return NUM_NODES - 1 in reached


def canonical(arch: Architecture) -> str:
    """Returns a text that isomorphic cells share.

    Each node is the sorted sum of its incoming edges. A skip is the node that it copies, but for
    one from the input, which is no copy where the cell has stride 2; `none` is left out.
    """
    nodes = ["0"]
    for target in range(1, NUM_NODES):
        terms = []
        for name, (source, end) in zip(operations(arch), EDGES, strict=True):
            if end == target and name != "none" and nodes[source]:
                copies = name == "skip_connect" and source
                terms.append(nodes[source] if copies else f"({nodes[source]})@{name}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def drawing(arch: Architecture) -> list[tuple[int, int, str]]:
    """Returns the (source, target, operation) edges."""
    return [(*edge, name) for edge, name in zip(EDGES, operations(arch), strict=True)]


DECISIONS = Decisions(
    choices=CHOICES,
    option_names=(OPERATIONS,) * len(EDGES),
    to_string=to_string,
    from_string=from_string,
    gates=partial(as_gates, choices=CHOICES),
    canonical=canonical,
    is_connected=is_connected,
)
