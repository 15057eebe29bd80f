"""NAS-Bench-201 cells as data: text, isomorphism and costs.

A cell has four nodes and six edges; every edge has one of five operations and a node is
the sum of its incoming edges (Dong and Yang, 2020, "NAS-Bench-201"). An architecture is six
indices into `OPERATIONS`, in the order of `EDGES`, which is the order of the cell string
`|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`. All 5^6 = 15,625 cells share one macro network: a
3x3 stem, three stages of equal cells at C, 2C and 4C channels, a residual block of stride 2
before the second and the third stage, batch normalisation, global pooling and a dense layer.

This module builds no network: every number comes from a formula and needs no device.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int

from saboc_jax.spaces.masks import as_gates
from saboc_jax.types import Architecture, Cost, Decisions

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
NUM_NODES = 4
STAGES = 3

_NONE, _SKIP, _CONV1, _CONV3, _POOL = range(len(OPERATIONS))
_LAYOUT = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
_DEAD = "#"  # the benchmark's own text for an edge without a signal


def to_string(arch: Architecture) -> str:
    """Writes a cell as `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.

    Args:
        arch: [6] operation indices in the order of `EDGES`.

    Raises:
        ValueError: if `arch` is not six indices below five.
    """
    ops = _checked(arch)
    nodes = []
    for target in range(1, NUM_NODES):
        edges = [
            f"{OPERATIONS[op]}~{source}"
            for op, (source, end) in zip(ops, EDGES, strict=True)
            if end == target
        ]
        nodes.append("|" + "|".join(edges) + "|")
    return "+".join(nodes)


def from_string(text: str) -> Architecture:
    """Reads a cell written by `to_string`.

    Returns:
        [6] operation indices in the order of `EDGES`.

    Raises:
        ValueError: if `text` is malformed; names the wrong part and what is allowed there.
    """
    groups = text.strip().split("+")
    if len(groups) != NUM_NODES - 1:
        raise _wrong(text, f"it has {len(groups)} nodes between '+' signs, expected 3")
    ops: list[int] = []
    for target, group in enumerate(groups, start=1):
        ops.extend(_read_node(text, target, group))
    return np.array(ops, dtype=np.int32)


def is_connected(mask: Any) -> bool:
    """Returns whether active operations other than `none` connect the input to the output.

    Args:
        mask: [6, 5] booleans or gates; non-zero entries are active.

    Raises:
        ValueError: if the shape is not [6, 5].
    """
    active = np.asarray(mask) != 0
    if active.shape != (len(EDGES), len(OPERATIONS)):
        raise ValueError(f"mask has shape {active.shape}; a cell's mask has shape (6, 5)")
    open_edges = np.delete(active, _NONE, axis=1).any(axis=1)
    reached = {0}
    for (source, target), is_open in zip(EDGES, open_edges, strict=True):
        if is_open and source in reached:
            reached.add(target)
    return NUM_NODES - 1 in reached


def canonical(arch: Architecture) -> str:
    """Returns a text shared by isomorphic cells: 6,466 texts for the 15,625 cells.

    Every node is written as the sorted sum of its incoming edges, `skip_connect` as the node
    it copies and `none` as `#`. This is the benchmark's own definition of isomorphism, so texts
    can be compared with published ones. It is finer than equality of functions: missing
    edges are counted, an operation applied to a dead node other than node 1 is kept, and a
    sum that passes through a skip is not sorted again.

    Args:
        arch: [6] operation indices.
    """
    ops = _checked(arch)
    nodes = ["0"]
    for target in range(1, NUM_NODES):
        terms = [
            _term(op, nodes[source])
            for op, (source, end) in zip(ops, EDGES, strict=True)
            if end == target
        ]
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def all_architectures() -> Int[np.ndarray, "15625 6"]:
    """Returns every cell once, in lexicographic order of the operation indices."""
    every = itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))
    return np.array(list(every), dtype=np.int32)


def cost(
    arch: Architecture,
    channels: int = 16,
    cells: int = 5,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Cost:
    """Counts parameters, multiply-accumulates and depth of the macro network.

    Edges that do not reach the output are counted, as in the benchmark: the network holds and
    evaluates them. The depth is the length of the longest path from image to logits, 0 if there
    is no path.

    Args:
        arch: [6] operation indices.
        channels: width C of the first stage.
        cells: cells N of each stage.
        num_classes: width of the logits.
        image_shape: (height, width, channels) of one image, sides multiples of 4.

    Raises:
        ValueError: if `arch` is not a cell or a size is not allowed.
    """
    ops = _checked(arch)
    widths, areas = _stages(channels, cells, num_classes, image_shape)
    kernels = 9 * ops.count(_CONV3) + ops.count(_CONV1)
    norms = ops.count(_CONV3) + ops.count(_CONV1)
    stem = 9 * image_shape[2] * channels
    params = stem + 2 * channels
    macs = stem * areas[0]
    for stage, (width, area) in enumerate(zip(widths, areas, strict=True)):
        params += cells * (kernels * width**2 + 2 * norms * width)
        macs += cells * kernels * width**2 * area
        if stage:
            weights = _reduction_weights(width)
            params += weights + 2 * 2 * width
            macs += weights * area
    params += 2 * widths[-1] + (widths[-1] + 1) * num_classes
    macs += widths[-1] * num_classes
    return Cost(params, macs, _depth(ops, cells))


def published_flops(
    arch: Architecture,
    channels: int = 16,
    cells: int = 5,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> int:
    """Returns the count that the benchmark publishes as FLOPs, to compare with its tables.

    It adds to the multiply-accumulates of `cost` 3 per normalised element (with its ReLU), 9
    and 4 per element of a 3x3 and a 2x2 average pool, and height + width + 1 per channel of
    the global pool. We inferred this rule from the published numbers; it reproduces all of them.

    Args:
        arch: [6] operation indices.
        channels: width C of the first stage.
        cells: cells N of each stage.
        num_classes: width of the logits.
        image_shape: (height, width, channels) of one image, sides multiples of 4.
    """
    ops = _checked(arch)
    widths, areas = _stages(channels, cells, num_classes, image_shape)
    convs, pools = ops.count(_CONV1) + ops.count(_CONV3), ops.count(_POOL)
    elements = [width * area for width, area in zip(widths, areas, strict=True)]
    extra = 3 * elements[0]  # the stem's normalisation
    extra += sum(cells * (3 * convs + 9 * pools) * count for count in elements)
    # A residual block normalises twice and pools its shortcut before widening it.
    extra += sum(2 * 3 * count + 4 * count // 2 for count in elements[1:])
    extra += 3 * elements[-1]  # the last normalisation
    extra += widths[-1] * (image_shape[0] // 4 + image_shape[1] // 4 + 1)
    return cost(arch, channels, cells, num_classes, image_shape).macs + extra


def _checked(arch: Any) -> tuple[int, ...]:
    """Returns the architecture as six plain ints; raises ValueError if it is malformed."""
    array = np.asarray(arch)
    if array.shape != (len(EDGES),) or array.dtype.kind not in "iu":
        raise ValueError(
            f"architecture has shape {array.shape} and dtype {array.dtype}; "
            "a cell is an integer array of shape (6,)"
        )
    if array.min() < 0 or array.max() >= len(OPERATIONS):
        listing = ", ".join(f"{i}={name}" for i, name in enumerate(OPERATIONS))
        raise ValueError(f"architecture {array.tolist()} has an unknown operation; use {listing}")
    return tuple(int(op) for op in array)


def _wrong(text: str, reason: str) -> ValueError:
    return ValueError(f"cell {text!r}: {reason}; the layout is {_LAYOUT}")


def _read_node(text: str, target: int, group: str) -> list[int]:
    """Reads the edges into node `target` from `|op~0|...|`."""
    if len(group) < 2 or not (group.startswith("|") and group.endswith("|")):
        raise _wrong(text, f"node {target} is {group!r} and must start and end with '|'")
    edges = group[1:-1].split("|")
    if len(edges) != target:
        raise _wrong(text, f"node {target} has {len(edges)} edges, expected {target}")
    return [_read_edge(text, target, source, edge) for source, edge in enumerate(edges)]


def _read_edge(text: str, target: int, source: int, edge: str) -> int:
    """Reads `op~source`, the `source`-th edge into `target`."""
    name, tilde, origin = edge.partition("~")
    if not tilde:
        raise _wrong(text, f"edge {edge!r} into node {target} has no '~' before its source")
    if name not in OPERATIONS:
        allowed = ", ".join(OPERATIONS)
        raise _wrong(text, f"unknown operation {name!r} into node {target}, known are {allowed}")
    if origin != str(source):
        raise _wrong(
            text, f"edge {edge!r} into node {target} has source {origin!r}, expected {source}"
        )
    return OPERATIONS.index(name)


def _term(op: int, source: str) -> str:
    """Returns the text of one edge; `source` is the text of its source node."""
    if op == _NONE or source == _DEAD:
        return _DEAD
    return source if op == _SKIP else f"({source})@{OPERATIONS[op]}"


def _stages(
    channels: int, cells: int, num_classes: int, image_shape: tuple[int, int, int]
) -> tuple[list[int], list[int]]:
    """Returns widths and pixels per stage; raises ValueError if a size is not allowed."""
    for name, value in (("channels", channels), ("cells", cells), ("num_classes", num_classes)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    height, width, colours = image_shape
    if any(side < 4 or side % 4 for side in (height, width)) or colours < 1:
        raise ValueError(
            f"image_shape={image_shape}; allowed: sides that are multiples of 4, which are halved "
            "twice, and 1 channel or more"
        )
    widths = [channels * 2**stage for stage in range(STAGES)]
    areas = [(height // 2**stage) * (width // 2**stage) for stage in range(STAGES)]
    return widths, areas


def _reduction_weights(width: int) -> int:
    """Counts the kernel weights of the residual block to `width`; all act at its output size."""
    narrow = width // 2
    return 9 * narrow * width + 9 * width * width + narrow * width


def _depth(ops: tuple[int, ...], cells: int) -> int:
    """Counts convolutions and dense layers on the longest path; 0 if there is no path."""
    in_cell = _longest_path(ops, lambda op: int(op in (_CONV1, _CONV3)))
    if in_cell is None:
        return 0
    stem_and_dense, per_reduction = 2, 2
    return stem_and_dense + per_reduction * (STAGES - 1) + STAGES * cells * in_cell


def _longest_path(ops: tuple[int, ...], length: Callable[[int], int]) -> int | None:
    """Returns the length of the longest path to the output without `none`; None: no path."""
    longest: dict[int, int] = {0: 0}
    for op, (source, target) in zip(ops, EDGES, strict=True):
        if op != _NONE and source in longest:
            path = longest[source] + length(op)
            longest[target] = max(path, longest.get(target, path))
    return longest.get(NUM_NODES - 1)


DECISIONS = Decisions(
    choices=(len(OPERATIONS),) * len(EDGES),
    option_names=(OPERATIONS,) * len(EDGES),
    to_string=to_string,
    from_string=from_string,
    gates=partial(as_gates, choices=(len(OPERATIONS),) * len(EDGES)),
    canonical=canonical,
    is_connected=is_connected,
)
