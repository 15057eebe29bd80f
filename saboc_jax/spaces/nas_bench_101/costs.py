"""Parameters, multiply-accumulates and depth of a NAS-Bench-101 network, from formulas.

The `params` of published tables come out exactly. `published_flops` gives their `flops`, which
hold element-wise work besides the multiply-accumulates of `cost`.
"""

from typing import NamedTuple

from saboc_jax.spaces import counting
from saboc_jax.spaces.counting import Count, Size
from saboc_jax.spaces.nas_bench_101 import cells
from saboc_jax.spaces.nas_bench_101.cells import Graph
from saboc_jax.types import Architecture, Cost

STACKS = 3
KERNELS = {"conv_1x1": 1, "conv_3x3": 3}


class NetworkSize(NamedTuple):
    """The network around the cells; defaults as the benchmark trained.

    Attributes:
        channels: of the stem and the first stack.
        cells: cells of each stack.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
    """

    channels: int = 128
    cells: int = 3
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)


TRAINED = NetworkSize()


def vertex_channels(graph: Graph, inputs: int, outputs: int) -> tuple[int, ...]:
    """Returns the channels of every vertex of a cell.

    The inner vertices that feed the output share its channels, the first ones get one more if
    they do not divide; any other vertex has as many as the widest that it feeds. A scoring network
    may have fewer channels than such vertices: then each has one, and the output is cut.
    """
    feeding = [source for source, target in graph.edges if target == graph.output and source]
    widths = {0: inputs, graph.output: outputs}
    for place, vertex in enumerate(feeding):
        each, more = divmod(outputs, len(feeding))
        widths[vertex] = max(each + (place < more), 1)
    for vertex in range(graph.output - 1, 0, -1):
        fed = [widths[target] for source, target in graph.edges if source == vertex]
        widths.setdefault(vertex, max(fed))
    return tuple(widths[vertex] for vertex in range(graph.output + 1))


def cost(graph: Graph, size: NetworkSize = TRAINED) -> Cost:
    """Counts parameters, multiply-accumulates and depth; a graph without a path has depth 0."""
    return _count(graph, size).cost


def published_flops(arch: Architecture) -> int:
    """Returns the count that NASLib's table publishes as FLOPs, to compare with it.

    It adds to multiply-accumulates 2 per element of a batch norm, 1 per element of a ReLU and a
    pool's window per element of its output.
    """
    return _count(cells.trained_graph(arch), TRAINED).flops


def _count(graph: Graph, size: NetworkSize) -> Count:
    height, width, colours = size.image_shape
    area, channels = (height, width), size.channels
    total = _conv(colours, channels, 3, area)
    inputs = channels
    for stack in range(STACKS):
        if stack:
            channels, area = 2 * channels, counting.halved(area)
            total = counting.in_series(total, counting.pool(inputs, 2, area))
        for _ in range(size.cells):
            total = counting.in_series(total, cell_count(graph, inputs, channels, area))
            inputs = channels
    total = counting.in_series(total, counting.dense(channels, size.num_classes))
    return total if graph.edges else total._replace(depth=0)


def cell_count(graph: Graph, inputs: int, outputs: int, area: Size) -> Count:
    """Counts one cell."""
    widths = vertex_channels(graph, inputs, outputs)
    parts, depths = [Count()], [0]
    for vertex in range(1, graph.output + 1):
        sources = [source for source, target in graph.edges if target == vertex]
        depth = max((depths[source] + (source == 0) for source in sources), default=0)
        if 0 in sources:
            parts.append(_conv(inputs, widths[vertex], 1, area))
        if vertex < graph.output:
            own = _operation(graph.operations[vertex - 1], widths[vertex], area)
            parts.append(own)
            depth += own.depth
        depths.append(depth)
    return counting.beside(*parts)._replace(depth=depths[-1])


def _operation(name: str, channels: int, area: Size) -> Count:
    if name in KERNELS:
        return _conv(channels, channels, KERNELS[name], area)
    return counting.pool(channels, 3, area)


def _conv(inputs: int, outputs: int, kernel: int, area: Size) -> Count:
    """Counts a convolution, a batch norm and a ReLU."""
    norm = counting.conv_norm(inputs, outputs, kernel, area)
    return counting.in_series(norm, counting.relu(outputs, area))
