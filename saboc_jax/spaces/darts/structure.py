"""The structure of the network that DARTS trains, from its graph of parts."""

from collections.abc import Iterator

from saboc_jax.layers.flows import Part, structure_of
from saboc_jax.spaces.darts import cells
from saboc_jax.spaces.darts.cells import Edge, Genotype
from saboc_jax.spaces.darts.costs import TRAINED, NetworkSize, area, halved, operation_cost
from saboc_jax.types import Structure

POINTS = 2 + cells.STEPS + 1  # of a cell: its two inputs, its nodes, its output


def structure(genotype: Genotype, size: NetworkSize = TRAINED) -> Structure:
    """Returns the structure of a genotype's network; see `costs.cost`, without auxiliary head."""
    stem, channels = size.stem_multiplier * size.channels, size.channels
    *sides, colours = size.image_shape
    parts = [Part(0, 1, (stem,), (9 * colours + 2) * stem, stem * area(sides))]
    inputs, point = [(1, stem, False), (1, stem, False)], 2  # (point, width, is twice as large)
    for layer in range(size.layers):
        reduction = size.reduces(layer)
        channels *= 1 + reduction
        parts += _inputs(inputs, point, channels, area(sides))
        edges = genotype.cells()[reduction]
        sides = halved(sides) if reduction else sides
        parts += _cell(edges, point, reduction, channels, area(sides), size.affine)
        output = point + POINTS - 1
        inputs = [inputs[1], (output, cells.STEPS * channels, False)]
        if reduction:
            inputs[0] = (*inputs[0][:2], True)
        point += POINTS
    width = inputs[1][1]
    norm = 2 * width * size.last_activation
    parts.append(
        Part(
            inputs[1][0],
            point,
            (size.num_classes,),
            norm + (width + 1) * size.num_classes,
            size.num_classes,
        )
    )
    return structure_of(parts, point)


def _inputs(
    inputs: list[tuple[int, int, bool]], point: int, channels: int, pixels: int
) -> Iterator[Part]:
    """Yields what maps the two inputs of a cell to its width; norms there are always affine."""
    for number, (source, width, twice) in enumerate(inputs):
        if twice:
            yield from _factorised(source, point + number, width, channels, pixels, True)
        else:
            params = width * channels + 2 * channels
            yield Part(source, point + number, (channels,), params, channels * pixels)


def _factorised(
    source: int, target: int, width: int, channels: int, pixels: int, affine: bool
) -> Iterator[Part]:
    """Yields the two convolutions, side by side, of a factorised reduction to that many pixels."""
    norm = 2 * channels * affine
    for half in filter(None, (channels // 2, channels - channels // 2)):
        sizes = ((half,), width * half + norm, half * pixels)
        yield Part(source, target, *sizes, gathered=channels > 1)
        norm = 0  # one norm for both


def _cell(
    edges: tuple[Edge, ...], point: int, reduction: bool, channels: int, pixels: int, affine: bool
) -> Iterator[Part]:
    """Yields the edges of a cell with outputs of that many pixels, and its nodes joined."""
    for node in range(cells.STEPS):
        target = point + 2 + node
        for operation, source in edges[2 * node : 2 * node + 2]:
            strided = reduction and source < 2
            if operation == "skip_connect" and strided:
                yield from _factorised(point + source, target, channels, channels, pixels, affine)
            elif operation != "none":
                found = operation_cost(operation, channels, pixels, strided, affine)
                outputs = found.depth * channels * pixels
                pooled = operation.endswith("pool_3x3")
                widths = (channels,) * found.depth
                yield Part(point + source, target, widths, found.params, outputs, pooled)
        yield Part(target, point + 2 + cells.STEPS, gathered=True)
