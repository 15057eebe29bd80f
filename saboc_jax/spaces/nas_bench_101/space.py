"""The NAS-Bench-101 space (Ying et al., 2019): its network and its scoring network.

Network: stem (3x3 convolution, batch norm, ReLU), three stacks of cells with C, 2C and 4C channels,
a 2x2 max-pool of stride 2 before the second and the third stack, global average pooling, a dense
layer. A vertex adds its inputs and applies its operation; the output concatenates the vertices that
feed it, and adds the projected input if that feeds it too. The cell's input is projected by a 1x1
convolution to each vertex that it feeds; a vertex that is wider than one it feeds is cut there.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.layers.ops import BatchNorm, Block, Conv, ConvNorm, Features, Relu, max_pool
from saboc_jax.spaces.gated import check_images, check_positive
from saboc_jax.spaces.nas_bench_101 import cells, costs, texts
from saboc_jax.spaces.nas_bench_101.cells import Graph
from saboc_jax.spaces.nas_bench_101.costs import KERNELS, STACKS, TRAINED, NetworkSize
from saboc_jax.spaces.plain import cheapest_listed, plain_networks
from saboc_jax.types import Costs, Images, PRNGKey, SearchHints, SearchSpace

TRIES = 32  # changes that a mutation draws; it takes the first that gives a cell


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


def nas_bench_101(
    channels: int = 8,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes the NAS-Bench-101 space with a scoring network of a given size.

    Each architecture has a program of its own. A cell without a path from input to output, or with
    more edges than the benchmark has, is flagged as disconnected and ranked last; a random
    architecture is a cell in seven of ten draws. Mutations give cells only.

    Args:
        channels: of the stem and the first stack (the benchmark trained with 128).
        num_cells: cells per stack (the benchmark trained with 3).
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image, of any size.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.

    Raises:
        ValueError: if a size is not positive, or the initialiser is unknown.
    """
    check_positive(channels=channels, num_cells=num_cells, num_classes=num_classes)
    check_images(image_shape)
    size = NetworkSize(channels, num_cells, num_classes, image_shape)
    return SearchSpace(
        name="nas_bench_101",
        decisions=texts.DECISIONS,
        networks=plain_networks(
            lambda arch: GraphNet(cells.to_graph(arch), size),
            cells.CHOICES,
            find_initialiser(init),
            name="nas_bench_101",
            image_shape=image_shape,
            num_classes=num_classes,
            specialise=lambda arch: GraphNet(cells.trained_graph(arch), size),
        ),
        costs=Costs(
            of=lambda arch: costs.cost(cells.to_graph(arch), size),
            cheapest=cheapest_listed,
            trained=lambda arch: costs.cost(cells.trained_graph(arch)),
        ),
        hints=SearchHints(evolution=_evolution),
    )


def _evolution() -> dict[str, Any]:
    """Returns the options of evolution: mutations that give cells."""
    return {"mutate": mutate}


def mutate(key: PRNGKey, arch: Int[Array, " 26"]) -> Int[Array, " 26"]:
    """Adds or removes an edge, or changes an operation, so that a cell comes out.

    Draws `TRIES` changes of one decision and takes the first that gives a cell; if none does, the
    last. Works under jit and vmap.

    Args:
        key: consumed.
        arch: [26].
    """
    decision_key, shift_key = jax.random.split(key)
    decisions = jax.random.randint(decision_key, (TRIES,), 0, len(cells.CHOICES))
    choices = jnp.asarray(cells.CHOICES, arch.dtype)[decisions]
    shifts = 1 + jax.random.randint(shift_key, (TRIES,), 0, choices - 1, arch.dtype)
    place = jnp.arange(TRIES)
    changed = jnp.tile(arch, (TRIES, 1)).at[place, decisions].add(shifts)
    changed = changed.at[place, decisions].set(changed[place, decisions] % choices)
    are_cells = jax.vmap(_is_cell)(changed)
    return changed[jnp.where(are_cells.any(), are_cells.argmax(), TRIES - 1)]


def _is_cell(arch: Int[Array, " 26"]) -> Bool[Array, ""]:
    """Returns whether an architecture is a cell of the benchmark; works under jit and vmap."""
    ends = tuple(np.transpose(cells.EDGES))
    number = cells.VERTICES
    adjacency = jnp.zeros((number, number), bool).at[ends].set(arch[: len(cells.EDGES)] > 0)
    ahead = jnp.arange(number) == 0
    behind = jnp.arange(number) == number - 1
    for _ in range(number - 1):  # the longest path has as many edges
        ahead |= (ahead[:, None] & adjacency).any(0)
        behind |= (adjacency & behind).any(1)
    kept = ahead & behind
    edges = (adjacency & kept[:, None] & kept).sum()
    return (edges > 0) & (edges <= cells.MAX_EDGES)
