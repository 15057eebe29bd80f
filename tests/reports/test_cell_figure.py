"""Drawings whose labels can be read."""

import itertools
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from saboc_jax.reports import cell_figure as report
from saboc_jax.spaces.masks import sample_architectures
from saboc_jax.spaces.nas_bench_201 import cells

DARTS = ("skip_connect", "sep_conv_3x3", "dil_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "none")


def nas_bench_201(arch: np.ndarray) -> list[report.Edge]:
    ops = [cells.OPERATIONS[op] for op in arch]
    return [(*edge, op) for edge, op in zip(cells.EDGES, ops, strict=True)]


def darts(seed: int) -> list[report.Edge]:
    """A random DARTS cell with two different inputs per node and a concatenated output."""
    rng = np.random.default_rng(seed)
    names = ["c[k-2]", "c[k-1]", "0", "1", "2", "3"]
    edges: list[report.Edge] = []
    for node in range(2, 6):
        for source in rng.choice(node, 2, replace=False):
            edges.append((names[source], names[node], str(rng.choice(DARTS))))
    return edges + [(name, "out", "") for name in names[2:]]


def arrows(figure: Figure) -> list[FancyArrowPatch]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]


def curve(arrow: FancyArrowPatch) -> np.ndarray:
    """Points along the line of an arrow, in units of the drawing: its first Bézier curve."""
    start, control, end = arrow.get_path().vertices[:3]
    t = np.linspace(0, 1, 100)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


def boxes(figure: Figure) -> dict[str, list]:
    """Extents in pixels of the labels of edges, and of the outlines of nodes."""
    figure.canvas.draw()
    axes = figure.axes[0]
    labels = [text.get_window_extent() for text in axes.texts if text.get_bbox_patch()]
    nodes = [p.get_window_extent() for p in axes.patches if not isinstance(p, FancyArrowPatch)]
    return {"labels": labels, "nodes": nodes}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("space", ["nas_bench_201", "darts"])
def test_labels_cover_neither_each_other_nor_nodes(space: str, seed: int) -> None:
    drawn = sample_architectures(jax.random.key(seed), (5,) * 6, 1)
    arch = np.asarray(drawn)[0]
    figure = report.draw_cell(nas_bench_201(arch) if space == "nas_bench_201" else darts(seed))
    found = boxes(figure)
    assert len(found["labels"]) == (6 if space == "nas_bench_201" else 8)
    everything = found["labels"] + found["nodes"]
    for one, two in itertools.combinations(everything, 2):
        assert not one.overlaps(two)
    for box in everything:
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height


def test_arcs_of_nas_bench_201_do_not_meet_foreign_labels_or_nodes() -> None:
    widest = cells.OPERATIONS.index("avg_pool_3x3")
    figure = report.draw_cell(nas_bench_201(np.full(6, widest)))
    found = boxes(figure)
    axes = figure.axes[0]
    for edge, arrow in enumerate(arrows(figure)):
        points = axes.transData.transform(curve(arrow))
        others = [box for i, box in enumerate(found["labels"]) if i != edge]
        others += [box for i, box in enumerate(found["nodes"]) if i not in cells.EDGES[edge]]
        for box in others:
            assert not any(box.contains(*point) for point in points)


def test_arrows_run_from_source_to_target() -> None:
    figure = report.draw_cell(nas_bench_201(np.array([1, 2, 3, 4, 0, 1])))
    figure.canvas.draw()
    centers = {
        text.get_text(): text.get_position()[0]
        for text in figure.axes[0].texts
        if text.get_text().isdigit()
    }
    assert list(centers) == ["0", "1", "2", "3"]
    for arrow, (source, target) in zip(arrows(figure), cells.EDGES, strict=True):
        xs = curve(arrow)[:, 0]
        assert (np.diff(xs) > 0).all()
        assert centers[str(source)] < xs[0] < xs[-1] < centers[str(target)]


def test_kinds_have_their_own_colour_style_and_legend_entry() -> None:
    ops = [cells.OPERATIONS.index(op) for op in ("none", "skip_connect", "nor_conv_1x1")]
    ops += [cells.OPERATIONS.index(op) for op in ("nor_conv_3x3", "avg_pool_3x3", "nor_conv_3x3")]
    figure = report.draw_cell(nas_bench_201(np.array(ops)), "a title")
    colours = [to_hex(arrow.get_edgecolor()) for arrow in arrows(figure)]
    assert len(set(colours)) == 5
    assert colours[3] == colours[5]
    dashed = [arrow.get_linestyle() not in ("-", "solid") for arrow in arrows(figure)]
    assert dashed == [True] + [False] * 5
    legend = {
        text.get_text(): to_hex(line.get_color())
        for text, line in zip(
            figure.legends[0].get_texts(), figure.legends[0].get_lines(), strict=True
        )
    }
    assert legend == {
        "none": colours[0],
        "skip connection": colours[1],
        "1×1 convolution": colours[2],
        "convolution": colours[3],
        "pooling": colours[4],
    }
    labels = [text.get_text() for text in figure.axes[0].texts if text.get_bbox_patch()]
    assert labels == ["none", "skip", "conv 1×1", "conv 3×3", "avg pool 3×3", "conv 3×3"]
    assert figure.axes[0].get_title() == "a title"


def test_parallel_edges_of_a_supernet_are_apart() -> None:
    operations = cells.OPERATIONS[1:]
    figure = report.draw_cell([(0, 1, op) for op in operations] + [(1, 2, "skip_connect")])
    labels = boxes(figure)["labels"]
    assert len(labels) == 5
    for one, two in itertools.combinations(labels, 2):
        assert not one.overlaps(two)


def test_nodes_stand_in_topological_order() -> None:
    edges = [("in", "b", "conv"), ("b", "a", "conv"), ("a", "out", ""), ("in", "out", "skip")]
    texts = [text for text in report.draw_cell(edges).axes[0].texts if not text.get_bbox_patch()]
    assert [text.get_text() for text in texts] == ["in", "b", "a", "out"]
    unordered = [(2, 10, "conv"), (0, 2, "conv"), (1, 10, "conv"), (0, 10, "custom_op")]
    figure = report.draw_cell(unordered)
    names = [text.get_text() for text in figure.axes[0].texts if not text.get_bbox_patch()]
    assert names == ["0", "1", "2", "10"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["convolution", "other"]


@pytest.mark.parametrize(
    ("edges", "reason"),
    [
        ([], "no edges"),
        ([(0, 1, "a"), (1, 2, "a"), (2, 1, "a")], r"nodes \[1, 2\] form a cycle"),
        ([(0, 0, "a")], "cycle"),
    ],
)
def test_what_cannot_be_drawn_is_refused(edges: list[report.Edge], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        report.draw_cell(edges)


def test_pngs_are_equal_and_opaque(tmp_path: Path) -> None:
    arch = np.array([1, 2, 3, 4, 0, 1])
    images = []
    for name in ("a.png", "b.png"):
        figure = report.draw_cell(nas_bench_201(arch))
        assert isinstance(figure.canvas, FigureCanvasAgg)
        figure.savefig(tmp_path / name)
        images.append((tmp_path / name).read_bytes())
    assert images[0] == images[1]
    assert images[0].startswith(b"\x89PNG")
    pixels = np.asarray(figure.canvas.buffer_rgba())
    assert (pixels[..., 3] == 255).all()
    assert 0.5 < (pixels == 255).all(axis=-1).mean() < 0.99  # drawn, and not all over


def test_drawing_leaves_pyplot_alone() -> None:
    program = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy(); "
        "from saboc_jax.reports.cell_figure import draw_cell; draw_cell([(0, 1, 'none')]); "
        "assert 'matplotlib.pyplot' not in sys.modules; "
        "assert matplotlib.rcParams.copy() == before"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)
