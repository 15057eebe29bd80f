"""The structure of the network that NAS-Bench-201 trains, from its graph of parts."""

from collections.abc import Iterator

from saboc_jax.layers.flows import Part, structure_of
from saboc_jax.spaces.nas_bench_201.cells import EDGES, NUM_NODES, OPERATIONS, STAGES
from saboc_jax.types import Architecture, Structure

TRAINED_CHANNELS, TRAINED_CELLS = 16, 5
_KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


def structure(
    arch: Architecture,
    channels: int = TRAINED_CHANNELS,
    cells: int = TRAINED_CELLS,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Structure:
    """Returns the structure of a cell's macro network; sizes as in `cells.cost`."""
    height, width, colours = image_shape
    parts = [_convolution(0, 1, 3, colours, channels, height * width)]
    at = 1
    for stage in range(STAGES):
        features, area = channels * 2**stage, (height // 2**stage) * (width // 2**stage)
        if stage:
            parts += _reduction(at, features, area)
            at += 1
        for _ in range(cells):
            parts += _cell(arch, at, features, area)
            at += NUM_NODES - 1
    norm = 2 * features
    dense = Part(at, at + 1, (num_classes,), norm + (features + 1) * num_classes, num_classes)
    return structure_of([*parts, dense], at + 1)


def _convolution(source: int, target: int, size: int, inner: int, outer: int, area: int) -> Part:
    """Returns a convolution and its norm."""
    return Part(source, target, (outer,), size**2 * inner * outer + 2 * outer, outer * area)


def _cell(arch: Architecture, first: int, width: int, area: int) -> Iterator[Part]:
    """Yields the edges of a cell whose input is the point `first`."""
    for option, (source, target) in zip(arch, EDGES, strict=True):
        name, ends = OPERATIONS[int(option)], (first + source, first + target)
        if name in _KERNELS:
            yield _convolution(*ends, _KERNELS[name], width, width, area)
        elif name != "none":
            yield Part(*ends, pooled=name == "avg_pool_3x3")


def _reduction(at: int, width: int, area: int) -> list[Part]:
    """Returns the two branches of a residual block to `width` channels."""
    first = _convolution(at, at + 1, 3, width // 2, width, area)
    second = _convolution(at, at + 1, 3, width, width, area)
    both = (first.params + second.params, first.activations + second.activations)
    shortcut = Part(at, at + 1, (width,), width // 2 * width, width * area, pooled=True)
    return [Part(at, at + 1, (width, width), *both), shortcut]
