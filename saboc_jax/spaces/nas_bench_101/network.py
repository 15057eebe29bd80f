"""NAS-Bench-101's networks (Ying et al., 2019), plain modules to train or inspect.

Network: stem (3x3 convolution, batch norm, ReLU), three stacks of cells with C, 2C and 4C channels,
a 2x2 max-pool of stride 2 before the second and the third stack, global average pooling, a dense
layer. A vertex adds its inputs and applies its operation; the output concatenates the vertices that
feed it, and adds the projected input if that feeds it too. The cell's input is projected by a 1x1
convolution to each vertex that it feeds; a vertex that is wider than one it feeds is cut there.

Kernels are compiled by vertex, with every vertex as wide as the cell: its parameters are slices of
those, the others are zero, and so are the channels that they make, forward and backward. So cells
share the programs of projections and operations, and most of those of sums.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.chain import Chain, Link
from saboc_jax.layers.initialise import Initialiser
from saboc_jax.layers.ops import BatchNorm, Block, Conv, ConvNorm, Features, Relu, max_pool
from saboc_jax.spaces.nas_bench_101 import costs
from saboc_jax.spaces.nas_bench_101.cells import Graph
from saboc_jax.spaces.nas_bench_101.costs import KERNELS, STACKS, TRAINED, NetworkSize
from saboc_jax.types import Images


class ConvNormRelu(nn.Module):
    """Convolution, batch norm, ReLU."""

    features: int
    kernel_size: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        conv = Conv(self.features, self.kernel_size, name="conv")
        return Relu(name="relu")(ConvNorm(conv, BatchNorm(self.train, name="norm"))(x))


class Cell(nn.Module):
    """One cell.

    Attributes:
        graph: its vertices and edges.
        features: output channels.
        train: True: batch norm uses batch statistics; False: running statistics.
    """

    graph: Graph
    features: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        graph = self.graph
        widths = costs.vertex_channels(graph, x.shape[-1], self.features)
        values = [x]
        for vertex in range(1, graph.output):
            inputs = [
                values[source][..., : widths[vertex]]
                for source, target in graph.edges
                if target == vertex and source
            ]
            if (0, vertex) in graph.edges:
                inputs.append(self._project(vertex, widths[vertex], x))
            y = sum(inputs[1:], start=inputs[0])
            values.append(self._operation(vertex, widths[vertex], y))
        return self._output(values)

    def _output(self, values: list[Features]) -> Features:
        last = self.graph.output
        parts = [values[source] for source, target in self.graph.edges if target == last and source]
        from_input = (0, last) in self.graph.edges
        y = jnp.zeros((*values[0].shape[:-1], self.features), values[0].dtype)  # without a path
        if parts:
            y = jnp.concatenate(parts, -1)[..., : self.features]
        if from_input:
            y = y + self._project(last, self.features, values[0])
        return y

    def _project(self, vertex: int, width: int, x: Features) -> Features:
        return ConvNormRelu(width, 1, self.train, name=f"projection_{vertex}")(x)

    def _operation(self, vertex: int, width: int, x: Features) -> Features:
        name = self.graph.operations[vertex - 1]
        if name not in KERNELS:
            return max_pool(x)
        return ConvNormRelu(width, KERNELS[name], self.train, name=f"vertex_{vertex}")(x)


class GraphNet(nn.Module):
    """The network of one cell: a plain module, to train or inspect.

    Attributes:
        graph: the cell.
        size: the network around it.
    """

    graph: Graph
    size: NetworkSize = TRAINED

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "n classes"]:
        features = self.size.channels
        x = ConvNormRelu(features, 3, train, name="stem")(images)
        x = Block(name="stem_output")(x)
        for stack in range(STACKS):
            if stack:
                features *= 2
                x = nn.max_pool(x, (2, 2), (2, 2), "SAME")
            for number in range(self.size.cells):
                name = f"cells_{stack}_{number}"
                x = Cell(self.graph, features, train, name=name)(x)
                x = Block(name=f"{name}_output")(x)
        x = Block(name="features")(x)
        return nn.Dense(self.size.num_classes, name="classifier")(x.mean((1, 2)))


# --- the network as links ---------------------------------------------------------------------


class Add(nn.Module):
    """Adds the first `width` channels of its inputs.

    Attributes:
        width: channels that count.
        features: channels of the result, the others of which are zero.
    """

    width: int
    features: int

    @nn.compact
    def __call__(self, *xs: Features) -> Features:
        total = sum((x[..., : self.width] for x in xs[1:]), start=xs[0][..., : self.width])
        return jnp.pad(total, ((0, 0),) * 3 + ((0, self.features - self.width),))


class Pool(nn.Module):
    """A max-pool, 3x3 or, between stacks, 2x2 of stride 2."""

    halves: bool = False

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return nn.max_pool(x, (2, 2), (2, 2), "SAME") if self.halves else max_pool(x)


class Output(nn.Module):
    """Concatenates the vertices that feed the output, and adds the projected input.

    Attributes:
        widths: channels of these vertices.
        features: channels of the result.
    """

    widths: tuple[int, ...]
    features: int

    @nn.compact
    def __call__(self, *xs: Features) -> Features:
        parts = [x[..., :width] for x, width in zip(xs, self.widths, strict=False)]
        y = jnp.concatenate(parts, -1)[..., : self.features]
        return sum(xs[len(self.widths) :], start=y)


class Head(nn.Module):
    """Global average pooling and a dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "n classes"]:
        return nn.Dense(self.num_classes, name="classifier")(x.mean((1, 2)))


class Links:
    """Collects the links of a network; each method returns the place of what it has added.

    Args:
        graph: the cell.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.found: list[Link] = []

    def add(self, module: nn.Module, runs: nn.Module, takes: tuple[int, ...], *path: str) -> int:
        """Adds a link, whose parameters' path begins with `path`."""
        names = ("conv", "norm") if path else ()
        self.found.append(Link(module, runs, takes, tuple((n, (*path, n)) for n in names)))
        return len(self.found)

    def conv(self, width: int, runs: int, kernel: int, x: int, *path: str) -> int:
        """Adds convolution, batch norm and ReLU with `width` channels, run with `runs`."""
        return self.add(ConvNormRelu(width, kernel), ConvNormRelu(runs, kernel), (x,), *path)

    def cell(self, name: str, inputs: int, features: int, x: int) -> int:
        """Adds a cell with that many channels of its input at x and of its output."""
        graph, places = self.graph, {0: x}
        widths = costs.vertex_channels(graph, inputs, features)
        for vertex in range(1, graph.output):
            places[vertex] = self._vertex(name, vertex, widths, features, places)
        feeding = [source for source, target in graph.edges if target == graph.output and source]
        takes = [places[source] for source in feeding]
        if (0, graph.output) in graph.edges:
            path = (name, f"projection_{graph.output}")
            takes.append(self.conv(features, features, 1, x, *path))
        if not feeding:
            return takes[0]
        module = Output(tuple(widths[source] for source in feeding), features)
        return self.add(module, module, tuple(takes))

    def _vertex(
        self, name: str, vertex: int, widths: tuple[int, ...], features: int, places: dict[int, int]
    ) -> int:
        """Adds the inputs of a vertex and its operation."""
        width, sources = widths[vertex], [s for s, t in self.graph.edges if t == vertex]
        takes = [places[source] for source in sources if source]
        if 0 in sources:
            takes.append(self.conv(width, features, 1, places[0], name, f"projection_{vertex}"))
        is_cut = any(widths[source] > width for source in sources if source)
        if len(takes) == 1 and not is_cut:
            y = takes[0]
        else:
            runs = Add(width if is_cut else features, features)
            y = self.add(Add(width, width), runs, tuple(takes))
        operation = self.graph.operations[vertex - 1]
        if operation not in KERNELS:
            return self.add(Pool(), Pool(), (y,))
        return self.conv(width, features, KERNELS[operation], y, name, f"vertex_{vertex}")


def chain(net: GraphNet, initialiser: Initialiser) -> Chain | None:
    """Returns a network as links; None if no path joins input and output of its cell."""
    if not net.graph.edges:
        return None
    made, size = Links(net.graph), net.size
    x = made.conv(size.channels, size.channels, 3, 0, "stem")
    inputs = features = size.channels
    for stack in range(STACKS):
        if stack:
            features *= 2
            x = made.add(Pool(halves=True), Pool(halves=True), (x,))
        for number in range(size.cells):
            x = made.cell(f"cells_{stack}_{number}", inputs, features, x)
            inputs = features
    head = Head(size.num_classes)
    path = (("classifier", ("classifier",)),)
    return Chain((*made.found, Link(head, head, (x,), path)), initialiser)
