"""Draws a cell as an arc diagram.

Nodes stand on one line in topological order. Edges between neighbours are straight; all others
are arcs above or below the line, placed so that few cross.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from saboc_jax.reports.canvas import blank

if TYPE_CHECKING:  # matplotlib is an extra, and loaded when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

Edge = tuple[Hashable, Hashable, str]

# Kind of operation by a part of its name, first match wins: (part, kind, colour). Colour-blind
# readers can tell the colours apart, and they are dark enough for text on white.
_KINDS = (
    ("none", "none", "#8a8a8a"),
    ("skip", "skip connection", "#00795a"),
    ("pool", "pooling", "#c04f00"),
    ("sep_conv", "separable convolution", "#4a3aa7"),
    ("dil_conv", "dilated convolution", "#9c2f7a"),
    ("1x1", "1×1 convolution", "#2a86c8"),
    ("conv", "convolution", "#0a4f9e"),
)
_OTHER = ("other", "#222222")
_PLAIN = "#b5b5b5"  # edges without an operation, such as the concatenation at a cell's output
_INK = "#263238"

# Lengths in drawing units; one unit is `_INCHES` wide.
_INCHES = 0.72
_RADIUS = 0.34  # of a node
_GAP = 2.1  # between neighbouring nodes, wide enough for a label on its straight edge
_ABOVE, _BELOW = 1, -1


class _Arc(NamedTuple):
    """One edge: the positions of its ends in the node order, and its signed height."""

    start: int
    end: int
    height: float
    label: str


def draw_cell(edges: Sequence[Edge], title: str | None = None) -> Figure:
    """Draws a directed acyclic graph whose edges carry operations.

    Args:
        edges: (source, target, operation). Nodes are numbers or texts, shown as labels. Edges
            named `none` are dashed and grey; edges with an empty name are thin and unlabelled.
            Several edges may join the same nodes, as in a supernet.
        title: a line above the drawing.

    Returns:
        A figure with an Agg canvas: `figure.savefig("cell.png", dpi=160)`.

    Raises:
        ValueError: if there are no edges or they form a cycle.
        MissingExtraError: if matplotlib is not installed.
    """
    nodes = _topological_order(edges)
    arcs = _place(edges, nodes)
    kinds = _kinds_of(arcs)
    figure, axes = _canvas(nodes, arcs, margin=0.4 * bool(title) + 0.65 * bool(kinds))
    patches = _draw_nodes(axes, nodes, edges)
    for arc in arcs:
        _draw_arc(axes, arc, _centers(nodes), patches)
    if title:
        # A character is about 0.6 font sizes wide: shrink a long title so that it is not cut.
        fitting = 72 * figure.get_figwidth() / (0.65 * len(title))
        axes.set_title(title, fontsize=min(11.0, fitting), color=_INK)
    if kinds:
        _draw_legend(figure, kinds)
    return figure


def _topological_order(edges: Sequence[Edge]) -> list[Hashable]:
    """Sorts nodes so that edges point right; sources first, then by number or appearance."""
    if not edges:
        raise ValueError("no edges to draw; at least one (source, target, operation) is needed")
    waiting = list(dict.fromkeys(node for source, target, _ in edges for node in (source, target)))
    if all(isinstance(node, (int, np.integer)) for node in waiting):
        waiting.sort(key=lambda node: int(node))  # type: ignore[call-overload]
    targets = {target for _, target, _ in edges}
    order = [node for node in waiting if node not in targets]
    waiting = [node for node in waiting if node in targets]
    while waiting:
        free = (n for n in waiting if all(s in order for s, t, _ in edges if t == n))
        following = next(free, None)
        if following is None:
            raise ValueError(f"edges among the nodes {waiting} form a cycle; they must not")
        order.append(following)
        waiting.remove(following)
    return order


def _place(edges: Sequence[Edge], nodes: Sequence[Hashable]) -> list[_Arc]:
    """Chooses a side for every arc; longer arcs are higher, and so are repeated ones."""
    position = {node: i for i, node in enumerate(nodes)}
    spans = [(position[source], position[target]) for source, target, _ in edges]
    sides = _sides(spans)
    used: dict[tuple[int, int, int], int] = {}
    arcs = []
    for (start, end), side, (_, _, label) in zip(spans, sides, edges, strict=True):
        repeats = used.get((start, end, side), 0)
        used[start, end, side] = repeats + 1
        height = 0.62 * (end - start) ** 1.3 + 0.75 * repeats if side else 0.0
        arcs.append(_Arc(start, end, side * height, label))
    return arcs


def _sides(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Places each edge above, below or on the line, so that few arcs on one side cross."""
    sides = [0] * len(spans)
    straight = {span: i for i, span in reversed(list(enumerate(spans))) if span[1] - span[0] == 1}
    arcs = [i for i, span in enumerate(spans) if straight.get(span) != i]

    def crossings(i: int, side: int) -> tuple[int, int]:
        """Counts arcs of `side` that cross the i-th arc, and arcs that repeat it."""
        others = [spans[j] for j in arcs if j != i and sides[j] == side]
        return sum(_cross(spans[i], other) for other in others), others.count(spans[i])

    for _ in range(4):  # the first round places, the others improve
        for i in sorted(arcs, key=lambda i: (spans[i][0] - spans[i][1], spans[i])):
            other = -sides[i] or _ABOVE
            if not sides[i]:
                sides[i] = _ABOVE if crossings(i, _ABOVE) <= crossings(i, _BELOW) else _BELOW
            elif crossings(i, other) < crossings(i, sides[i]):
                sides[i] = other
    return sides


def _cross(one: tuple[int, int], two: tuple[int, int]) -> bool:
    (a, b), (c, d) = sorted((one, two))
    return a < c < b < d


def _kind(label: str) -> tuple[str, str]:
    """Returns the kind and colour of an operation."""
    return next((kind[1:] for kind in _KINDS if kind[0] in label), _OTHER)


def _kinds_of(arcs: Iterable[_Arc]) -> dict[str, str]:
    """Returns the kinds that occur and their colours, in the order of `_KINDS`."""
    found = dict(_kind(arc.label) for arc in arcs if arc.label)
    order = [kind for _, kind, _ in _KINDS] + [_OTHER[0]]
    return {kind: found[kind] for kind in order if kind in found}


def _readable(label: str) -> str:
    """Shortens a label, e.g. `nor_conv_3x3` to `conv 3×3`."""
    words = label.removeprefix("nor_").removesuffix("_connect").split("_")
    sizes = [word.replace("x", "×") if word[:1].isdigit() else word for word in words]
    return " ".join(sizes)


def _half_width(node: Hashable) -> float:
    """Returns half the width of a node: that of a circle, or more if its name is long."""
    return max(_RADIUS, 0.1 + 0.095 * len(str(node)))


def _centers(nodes: Sequence[Hashable]) -> list[float]:
    """Returns horizontal positions of the nodes with equal gaps between neighbours."""
    widths = [2 * _half_width(node) for node in nodes]
    lefts = np.cumsum([0.0, *widths[:-1]]) + _GAP * np.arange(len(nodes))
    return [float(left + width / 2) for left, width in zip(lefts, widths, strict=True)]


def _canvas(nodes: Sequence[Hashable], arcs: Sequence[_Arc], margin: float) -> tuple[Figure, Axes]:
    """Makes an empty figure for the drawing, with `margin` inches for title and legend."""
    highest = max([0.4, *[arc.height for arc in arcs]]) + 0.35
    lowest = min([-0.4, *[arc.height for arc in arcs]]) - 0.35
    right = _centers(nodes)[-1] + _half_width(nodes[-1])
    size = ((right + 0.6) * _INCHES + 0.2, (highest - lowest) * _INCHES + margin)
    figure = blank(max(size[0], 4.0), size[1], facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.15)  # type: ignore[union-attr, call-arg]
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(-0.3, right + 0.3), ylim=(lowest, highest))
    return figure, axes


def _outline(center: float, half_width: float) -> Patch:
    """Returns a circle, or a rounded box if the node must be wider."""
    from matplotlib.patches import BoxStyle, Circle, FancyBboxPatch

    if half_width == _RADIUS:
        return Circle((center, 0.0), _RADIUS)
    corner = (center - half_width, -_RADIUS)
    style = BoxStyle.Round(pad=0.0, rounding_size=0.2)
    return FancyBboxPatch(corner, 2 * half_width, 2 * _RADIUS, boxstyle=style)


def _draw_nodes(axes: Axes, nodes: Sequence[Hashable], edges: Sequence[Edge]) -> list[Patch]:
    """Draws the nodes: inputs and outputs filled, inner nodes empty."""
    inner = {source for source, _, _ in edges} & {target for _, target, _ in edges}
    patches = []
    for center, node in zip(_centers(nodes), nodes, strict=True):
        fill, ink = ("white", _INK) if node in inner else (_INK, "white")
        patch = _outline(center, _half_width(node))
        patch.set(facecolor=fill, edgecolor=_INK, linewidth=1.6, zorder=3)
        axes.add_patch(patch)
        text = axes.text(center, 0.0, str(node), color=ink, fontsize=11, zorder=4)
        text.set(horizontalalignment="center", verticalalignment="center_baseline")
        patches.append(patch)
    return patches


def _draw_arc(axes: Axes, arc: _Arc, centers: Sequence[float], patches: Sequence[Patch]) -> None:
    """Draws one edge, and its label at its highest point."""
    from matplotlib.patches import FancyArrowPatch

    _, colour = _kind(arc.label) if arc.label else ("", _PLAIN)
    is_none = arc.label == "none"
    start, end = centers[arc.start], centers[arc.end]
    arrow = FancyArrowPatch(
        (start, 0.0),
        (end, 0.0),
        # The curve is a parabola; its height is half of `rad` times its length.
        connectionstyle=f"arc3,rad={-2 * arc.height / (end - start)}",
        arrowstyle="-|>",
        mutation_scale=14,
        patchA=patches[arc.start],
        patchB=patches[arc.end],
        shrinkA=1,
        shrinkB=1,
        color=colour,
        linestyle=(0, (4, 3)) if is_none else "-",
        linewidth=1.3 if is_none or not arc.label else 2.2,
        zorder=1,
    )
    axes.add_patch(arrow)
    if arc.label:
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none"}
        axes.text(
            (start + end) / 2,
            arc.height,
            _readable(arc.label),
            color=colour,
            fontsize=9.5,
            ha="center",
            va="center",
            bbox=box,
            zorder=2,
        )


def _draw_legend(figure: Figure, kinds: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=kind, linewidth=2.2, linestyle="--" if dashed else "-")
        for kind, colour in kinds.items()
        for dashed in [kind == "none"]
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 3 + 2 * (figure.get_figwidth() > 8)),
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )
