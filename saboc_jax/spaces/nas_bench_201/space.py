"""The NAS-Bench-201 space (Dong & Yang 2020): its macro network, gated and specialised.

Macro network: stem (3x3 convolution, batch norm), three stages of N cells with C, 2C and 4C
channels, a residual block of stride 2 between stages, then batch norm, ReLU, global average
pooling and a dense layer. A cell has four nodes and six edges; every edge chooses one of five
operations (`spaces.nas_bench_201.cells`).

**One program for every cell.** The gated network holds the parameters of every operation of
every edge, stacked as [cells of the stage, edges, ...]. `lax.scan` runs over cells and edges, so
the program's size does not depend on N. `lax.cond` runs only operations with a positive gate, so
a one-hot cell costs as much as the specialised cell. With several positive gates on an edge the
gated outputs are added: this is the supernet of pruning.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.edges import Operation, add_edges
from saboc_jax.layers.gating import COLLECTIONS, apply_within, merge
from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.layers.ops import (
    BLOCK_INPUTS,
    BatchNorm,
    Block,
    Conv,
    ConvNorm,
    Features,
    Relu,
    ReluConvNorm,
    Within,
    average_pool,
)
from saboc_jax.spaces.gated import check_halved, check_positive, gated_networks
from saboc_jax.spaces.masks import check_architecture
from saboc_jax.spaces.nas_bench_201 import cells, texts
from saboc_jax.spaces.nas_bench_201.structure import structure
from saboc_jax.types import (
    Architecture,
    Costs,
    Gates,
    Images,
    SearchSpace,
    Variables,
)

PARAMETRIC = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}  # kernel sizes of operations with parameters
STAGES = 3
NUM_EDGES = len(cells.EDGES)
THIN_SHAPE = (3, 3, 1)  # input shape of `ThinNet`


class Reduction(nn.Module):
    """The residual block between stages: two ReLU-conv-norm; shortcut: pool and 1x1 conv."""

    features: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        y = ReluConvNorm(self.features, 3, 2, self.train, name="conv_a")(x)
        y = ReluConvNorm(self.features, 3, 1, self.train, name="conv_b")(y)
        shortcut = average_pool(x, 2, 2)
        return y + Conv(self.features, 1, name="shortcut")(shortcut)


class Stem(nn.Module):
    """3x3 convolution and batch norm."""

    features: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Images) -> Features:
        conv, norm = Conv(self.features, 3, name="conv"), BatchNorm(self.train, name="norm")
        return ConvNorm(conv, norm)(x)


class Head(nn.Module):
    """Batch norm, ReLU, global average pooling, dense layer."""

    num_classes: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "n classes"]:
        x = Relu(name="relu")(BatchNorm(self.train, name="norm")(x))
        x = Block(name="features")(x)
        return nn.Dense(self.num_classes, name="classifier")(x.mean((1, 2)))


def _operation(name: str, channels: int, train: bool = True) -> Callable[..., nn.Module]:
    return partial(ReluConvNorm, channels, PARAMETRIC[name], train=train)


class Edge(nn.Module):
    """One operation by name, as in a specialised network."""

    operation: str
    features: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        if self.operation in PARAMETRIC:
            return _operation(self.operation, self.features, self.train)(name=self.operation)(x)
        if self.operation == "avg_pool_3x3":
            return average_pool(x)
        return x if self.operation == "skip_connect" else jnp.zeros_like(x)


class Cell(nn.Module):
    """One cell of a specialised network.

    Attributes:
        operations: the name of the operation on each of the six edges.
        features: channels.
        train: True: batch norm uses batch statistics; False: running statistics.
    """

    operations: tuple[str, ...]
    features: int
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        nodes = [x] + [jnp.zeros_like(x)] * 3
        for number, (source, target) in enumerate(cells.EDGES):
            edge = Edge(self.operations[number], self.features, self.train, name=f"edge_{number}")
            nodes[target] = nodes[target] + edge(nodes[source])
        return nodes[3]


class MacroNet(nn.Module):
    """The macro network of one cell: a plain module, to train or inspect.

    Attributes:
        operations: the name of the operation on each of the six edges.
        channels: C, channels of the first stage.
        cells: N, cells per stage.
        num_classes: width of the outputs.
    """

    operations: tuple[str, ...]
    channels: int = 16
    cells: int = 5
    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "n classes"]:
        x = Block(name="stem_output")(Stem(self.channels, train, name="stem")(images))
        for stage in range(STAGES):
            features = self.channels * 2**stage
            if stage:
                x = Reduction(features, train, name=f"reduction_{stage}")(x)
                x = Block(name=f"reduction_{stage}_output")(x)
            for number in range(self.cells):
                name = f"cells_{stage}_{number}"
                x = Cell(self.operations, features, train, name=name)(x)
                x = Block(name=f"{name}_output")(x)
        return Head(self.num_classes, train, name="head")(x)


class GatedMacroNet(nn.Module):
    """The macro network of every cell and of every supernet; the gates select the cell.

    Attributes:
        channels: C, channels of the first stage.
        cells: N, cells per stage.
        num_classes: width of the outputs.
    """

    channels: int = 16
    cells: int = 5
    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Images, gates: Gates) -> Float[Array, "n classes"]:
        x = Block(name="stem_output")(Stem(self.channels, name="stem")(images))
        for stage in range(STAGES):
            features = self.channels * 2**stage
            if stage:
                x = Reduction(features, name=f"reduction_{stage}")(x)
                x = Block(name=f"reduction_{stage}_output")(x)
            x = self._stage(f"cells_{stage}", features, x, gates)
        return Head(self.num_classes, name="head")(x)

    def _stage(self, name: str, features: int, x: Features, gates: Gates) -> Features:
        labels = {f"{name}_{operation}": operation for operation in PARAMETRIC}
        params = {
            label: self.param(label, self._init_stack, operation, features)
            for label, operation in labels.items()
        }
        if self.is_initializing():
            return x
        mutable = tuple(c for c in COLLECTIONS if self.is_mutable_collection(c))
        stored: Any = {
            label: self.get_variable("batch_stats", label, default={}) for label in labels
        }
        given: Any = self.get_variable(BLOCK_INPUTS, f"{name}_output", default={})
        run = partial(_run_cell, name, features, gates, mutable)
        x, states = lax.scan(run, x, ({"params": params, "batch_stats": stored}, given))
        for collection in mutable:
            for key, value in states.get(collection, {}).items():
                self.put_variable(collection, key, value)
        return x

    def _init_stack(self, key: Array, operation: str, features: int) -> Any:
        """Returns parameters [cells, edges, ...] of one operation in one stage, all equal."""
        sample = jnp.zeros((1, 4, 4, features))
        params = _operation(operation, features)().init(key, sample)["params"]
        stack = (self.cells, NUM_EDGES)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, stack + leaf.shape), params)


class ThinNet(MacroNet):
    """One cell, batch norm, ReLU: TE-NAS's network for counting linear regions."""

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Features:
        x = Cell(self.operations, self.channels, train, name="cells_0_0")(images)
        return Relu(name="relu")(BatchNorm(train, name="norm")(x))


class GatedThinNet(GatedMacroNet):
    """`ThinNet` of every cell; the gates select the cell."""

    @nn.compact
    def __call__(self, images: Images, gates: Gates) -> Features:
        x = self._stage("cells_0", self.channels, images, gates)
        return Relu(name="relu")(BatchNorm(name="norm")(x))


def _run_cell(
    name: str, features: int, gates: Gates, mutable: Sequence[str], x: Features, variables: Any
) -> tuple[Features, Variables]:
    """Runs one cell: the body of the scan over a stage, with an inner scan over six edges."""
    layers, given = variables
    nodes = jnp.zeros((cells.NUM_NODES, *x.shape), x.dtype).at[0].set(x)
    operations = [
        Operation(option, partial(_run_option, name, features, operation))
        for option, operation in enumerate(cells.OPERATIONS)
        if operation != "none"
    ]
    nodes, states = add_edges(operations, cells.EDGES, nodes, None, gates, layers, mutable)
    mark = Within(f"{name}_output", Block)
    inputs = {BLOCK_INPUTS: {mark.label: given}} if given else {}
    x, state = mark.apply(inputs, nodes[-1], mutable=list(mutable))
    return x, merge(states, state)


def _run_option(
    name: str,
    features: int,
    operation: str,
    collections: Variables,
    mutable: Sequence[str],
    x: Features,
) -> tuple[Features, Variables]:
    """Runs one operation with the collections of an edge."""
    if operation not in PARAMETRIC:
        return (x if operation == "skip_connect" else average_pool(x)), {}
    module = Within(f"{name}_{operation}", _operation(operation, features))
    return apply_within(module, collections, mutable, x)


# --- the space --------------------------------------------------------------------------------


def nas_bench_201(
    channels: int = 16,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes the NAS-Bench-201 space with a scoring network of a given size.

    Args:
        channels: C, channels of the first stage (the benchmark trained with 16).
        num_cells: N, cells per stage (the benchmark trained with 5).
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.

    Raises:
        ValueError: if a size is not positive, an image side is not a multiple of 4, or the
            initialiser is unknown.
    """
    check_positive(channels=channels, num_cells=num_cells, num_classes=num_classes)
    check_halved(image_shape, times=STAGES - 1)
    gated = partial(
        gated_networks,
        choices=cells.DECISIONS.choices,
        initialiser=find_initialiser(init),
        layers_per_leaf=layers_per_leaf,
        num_classes=num_classes,
    )
    thin = gated(
        GatedThinNet(channels=1, cells=1),
        image_shape=THIN_SHAPE,
        specialise=lambda arch: ThinNet(operation_names(arch), channels=1, cells=1),
        extract=partial(_extract, 1),
    )
    return SearchSpace(
        name="nas_bench_201",
        decisions=texts.DECISIONS,
        networks=gated(
            GatedMacroNet(channels, num_cells, num_classes),
            image_shape=image_shape,
            specialise=lambda arch: MacroNet(
                operation_names(arch), channels, num_cells, num_classes
            ),
            extract=partial(_extract, num_cells),
            thin_cell=thin,
        ),
        costs=Costs(
            partial(
                cells.cost,
                channels=channels,
                cells=num_cells,
                num_classes=num_classes,
                image_shape=image_shape,
            ),
            trained=cells.cost,
            structure=partial(structure, num_classes=num_classes, image_shape=image_shape),
        ),
    )


def operation_names(arch: Architecture) -> tuple[str, ...]:
    """Returns the name of the operation on each edge."""
    return tuple(
        cells.OPERATIONS[option] for option in check_architecture(arch, cells.DECISIONS.choices)
    )


def layers_per_leaf(path: tuple[str, ...]) -> int:
    """Returns how many leading axes of a supernet parameter index layers: cells and edges."""
    return 2 if path[0].startswith("cells_") else 0


def _extract(num_cells: int, variables: Variables, arch: Architecture) -> Variables:
    """Extracts the variables of `specialise(arch)` from those of the supernet."""
    names = operation_names(arch)
    return {
        collection: _extract_collection(num_cells, tree, names)
        for collection, tree in variables.items()
    }


def _extract_collection(num_cells: int, tree: Any, names: tuple[str, ...]) -> dict[str, Any]:
    out = {key: value for key, value in tree.items() if not key.startswith("cells_")}
    for stage in range(STAGES):
        if not any(key.startswith(f"cells_{stage}_") for key in tree):
            continue
        for number in range(num_cells):
            cell = {
                f"edge_{edge}": {
                    name: jax.tree.map(
                        lambda leaf, n=number, e=edge: leaf[n, e], tree[f"cells_{stage}_{name}"]
                    )
                }
                for edge, name in enumerate(names)
                if name in PARAMETRIC
            }
            if cell:
                out[f"cells_{stage}_{number}"] = cell
    return out
