"""Parameters, multiply-accumulates and depth of a DARTS network, from formulas.

Network: a 3x3 stem of `stem_multiplier` C channels with batch norm, then cells of C channels;
the cells at one and two thirds are reduction cells and double C. Each cell first maps its two
inputs to C channels (1x1 convolution and batch norm; two shifted 1x1 convolutions of stride
2 for an input from before a reduction). The classifier is global pooling and one dense layer.

The `params` of NAS-Bench-Suite-Zero's 725 genotypes were counted with `PUBLISHED`: C=32, 8
cells, stem multiplier 3, no auxiliary head, batch norms without scale and bias inside the
operations, but with both in the stem and at the cells' inputs. We found this by fitting; it
reproduces all 725 numbers exactly. `published_flops`, which counts more than
multiply-accumulates, reproduces their `flops` exactly.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from saboc_jax.spaces.darts import cells
from saboc_jax.spaces.darts.cells import Edge, Genotype
from saboc_jax.types import Cost


class NetworkSize(NamedTuple):
    """The macro network around the cells; defaults as in DARTS's training on CIFAR-10.

    Attributes:
        channels: C of the first cells.
        layers: number of cells.
        stem_multiplier: the stem has this many times C channels.
        auxiliary: with the auxiliary head after two thirds of the cells.
        affine: batch norms inside the operations have scale and bias.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
        reduction_cells: which cells are reduction cells; None: those at one and two thirds.
        last_activation: batch norm and ReLU after the last cell, as in TE-NAS's networks.
        thin: without stem and classifier; outputs are feature maps.
    """

    channels: int = 36
    layers: int = 20
    stem_multiplier: int = 3
    auxiliary: bool = False
    affine: bool = True
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)
    reduction_cells: tuple[int, ...] | None = None
    last_activation: bool = False
    thin: bool = False

    def reduces(self, layer: int) -> bool:
        """Returns whether the cell is a reduction cell."""
        found = self.reduction_cells
        return layer in (reductions(self.layers) if found is None else found)


TRAINED = NetworkSize()
PUBLISHED = NetworkSize(channels=32, layers=8, affine=False)


def reductions(layers: int) -> tuple[int, ...]:
    """Returns the indices of the reduction cells, at one and two thirds."""
    return tuple(sorted({layers // 3, 2 * layers // 3}))


def cost(genotype: Genotype, size: NetworkSize = TRAINED) -> Cost:
    """Counts one genotype's network.

    Multiply-accumulates exclude the auxiliary head, which is removed after training; its
    parameters are counted if `size.auxiliary`. The depth is the length of the longest path from
    the image to the outputs, 0 if there is no path.

    Args:
        genotype: the two cells.
        size: the network.

    Raises:
        ValueError: if a size is not positive, or the network is thin.
    """
    if min(size.channels, size.layers, size.stem_multiplier, size.num_classes) < 1:
        raise ValueError(f"{size}; allowed: channels, layers, multiplier and classes of 1 or more")
    if size.thin:
        raise ValueError(f"{size}; allowed: networks with stem and classifier")
    stem = size.stem_multiplier * size.channels
    *sides, colours = size.image_shape
    channels, kernel = size.channels, 9 * colours * stem
    params, macs = kernel + 2 * stem, kernel * area(sides)
    widths, depths = (stem, stem), (1, 1)
    for layer in range(size.layers):
        is_reduction = size.reduces(layer)
        channels *= 1 + is_reduction
        # After preprocessing both inputs have the sides of the last cell's output.
        params += sum(width * channels + 2 * channels for width in widths)
        macs += sum(width * channels * area(sides) for width in widths)
        edges = genotype.cells()[is_reduction]
        found = _cell(edges, is_reduction, channels, sides, size.affine, depths)
        params, macs = params + found.params, macs + found.macs
        sides = halved(sides) if is_reduction else sides
        widths, depths = (widths[1], cells.STEPS * channels), (depths[1], found.depth)
        if size.auxiliary and layer == 2 * size.layers // 3:
            params += _auxiliary(widths[1], size.num_classes)
    params += (widths[1] + 1) * size.num_classes + 2 * widths[1] * size.last_activation
    depth = depths[1] + 1 if depths[1] else 0
    return Cost(params, macs + widths[1] * size.num_classes, depth)


def published_flops(genotype: Genotype, size: NetworkSize = PUBLISHED) -> int:
    """Returns the `flops` of NAS-Bench-Suite-Zero's table, for one image.

    TensorWatch counts them: the multiply-accumulates of `cost`, plus per tensor element 1 for a
    ReLU, 1 for a batch norm or 2 for one with scale and bias, 9 for a 3x3 pool (per element of
    its output), and (side + 1)^2 per channel for the last pool. The counted networks have a
    batch norm without scale and bias after each pool in a cell, as in DARTS's code.

    Args:
        genotype: the two cells.
        size: the network.

    Raises:
        ValueError: see `cost`.
    """
    stem, channels = size.stem_multiplier * size.channels, size.channels
    sides = list(size.image_shape[:2])
    total = cost(genotype, size).macs + 2 * stem * area(sides)
    inputs = [(stem, sides), (stem, sides)]  # (channels, sides) of the inputs of a cell
    for layer in range(size.layers):
        is_reduction = size.reduces(layer)
        channels *= 1 + is_reduction
        # The cell's inputs: a ReLU before preprocessing and a batch norm after it, for each.
        total += sum(width * area(own) for width, own in inputs) + 4 * channels * area(sides)
        sides = halved(sides) if is_reduction else sides
        for operation, source in genotype.cells()[is_reduction]:
            times = _elementwise(operation, is_reduction and source < 2, size.affine)
            total += times * channels * area(sides)
        inputs = [inputs[1], (cells.STEPS * channels, sides)]
    return total + inputs[1][0] * area([side + 1 for side in sides])


def area(sides: Sequence[int]) -> int:
    """Returns the number of pixels."""
    return math.prod(sides)


def halved(sides: Sequence[int]) -> list[int]:
    """Returns the sides after a stride of 2."""
    return [-(-side // 2) for side in sides]


def _elementwise(operation: str, strided: bool, affine: bool) -> int:
    """Returns what `published_flops` adds to multiply-accumulates, per element of the output."""
    norm, first_relu = 1 + affine, 4 if strided else 1
    if operation.startswith("sep_conv"):
        return first_relu + norm + 1 + norm
    if operation.startswith("dil_conv") or (operation == "skip_connect" and strided):
        return first_relu + norm
    return 10 if operation.endswith("pool_3x3") else 0


def _cell(
    edges: Sequence[Edge],
    is_reduction: bool,
    channels: int,
    sides: Sequence[int],
    affine: bool,
    depths: tuple[int, int],
) -> Cost:
    """Counts the operations of one cell; `depths` of its inputs are 0 if there is no path."""
    params = macs = 0
    longest = [depth + 1 if depth else 0 for depth in depths]
    for node in range(cells.STEPS):
        paths = [0]
        for operation, source in edges[2 * node : 2 * node + 2]:
            strided = is_reduction and source < 2
            out = area(halved(sides) if is_reduction else sides)
            found = operation_cost(operation, channels, out, strided, affine)
            params, macs = params + found.params, macs + found.macs
            if longest[source] and operation != "none":
                paths.append(longest[source] + found.depth)
        longest.append(max(paths))
    return Cost(params, macs, max(longest[2:]))


def operation_cost(operation: str, channels: int, pixels: int, strided: bool, affine: bool) -> Cost:
    """Counts one operation; both convolutions of `sep_conv` act at the `pixels` of its output."""
    norm = 2 * channels * affine
    if operation == "skip_connect" and strided:
        return Cost(channels**2 + norm, channels**2 * pixels, 1)
    if operation.startswith(("sep_conv", "dil_conv")):
        times = 2 if operation.startswith("sep") else 1
        weights = int(operation[-1]) ** 2 * channels + channels**2
        return Cost(times * (weights + norm), times * weights * pixels, 2 * times)
    return Cost(0, 0, 0)


def _auxiliary(width: int, num_classes: int) -> int:
    """Counts the parameters of the auxiliary head: 1x1 to 128, 2x2 to 768, norms, dense layer."""
    return width * 128 + 2 * 128 + 4 * 128 * 768 + 2 * 768 + (768 + 1) * num_classes
