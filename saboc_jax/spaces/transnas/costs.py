"""Parameters, multiply-accumulates and depth of TransNAS-Bench-101's networks, from formulas.

The published parameters of cells come out exactly, for the classifier of 63 scenes.
`micro_flops` gives their published FLOPs, which hold element-wise work besides the
multiply-accumulates of `cost`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from saboc_jax.spaces import counting
from saboc_jax.spaces.counting import Count, Size
from saboc_jax.spaces.nas_bench_201.cells import EDGES, NUM_NODES
from saboc_jax.spaces.transnas import macro, micro
from saboc_jax.types import Architecture, Cost


class NetworkSize(NamedTuple):
    """The network around cells or blocks; defaults as the benchmark trained for scenes.

    Attributes:
        channels: of the last layer of the stem.
        blocks: cells or residual blocks of each module.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
    """

    channels: int = 64
    blocks: int = 2
    num_classes: int = 63
    image_shape: tuple[int, int, int] = (256, 256, 3)


class Step(NamedTuple):
    """One cell or block of a network: its channels and its stride."""

    inputs: int
    outputs: int
    stride: int


TRAINED = NetworkSize()
CountBlock = Callable[[Step, Size], Count]


def steps(modules: Sequence[int], size: NetworkSize) -> list[list[Step]]:
    """Returns the cells or blocks of each module, given the modules' types."""
    found, channels = [], size.channels
    for kind in modules:
        outputs = 2 * channels if kind in (2, 4) else channels
        first = Step(channels, outputs, 2 if kind in (3, 4) else 1)
        found.append([first, *[Step(outputs, outputs, 1)] * (size.blocks - 1)])
        channels = outputs
    return found


def stem_channels(size: NetworkSize) -> int:
    """Returns the channels between the two convolutions of the stem."""
    return max(size.channels // 2, 1)


def micro_cost(arch: Architecture, size: NetworkSize = TRAINED) -> Cost:
    """Counts the network of a cell; without a path its depth is 0."""
    return _micro(arch, size).cost


def macro_cost(arch: Architecture, size: NetworkSize = TRAINED) -> Cost:
    """Counts the network of a backbone."""
    return _count(macro.modules(arch), _residual, size).cost


def micro_flops(arch: Architecture) -> int:
    """Returns the FLOPs that are published for a cell, to compare with.

    They add to multiply-accumulates 2 per element of a batch norm, 1 per element of a ReLU and
    (side + 1)^2 per channel for the last pool.
    """
    return _micro(arch, TRAINED).flops


def _micro(arch: Architecture, size: NetworkSize) -> Count:
    names = micro.operations(arch)
    total = _count(micro.SKELETON, partial(_cell, names), size)
    mask = [[name == each for each in micro.OPERATIONS] for name in names]
    return total if micro.is_connected(mask) else total._replace(depth=0)


def _count(modules: Sequence[int], block: CountBlock, size: NetworkSize) -> Count:
    height, width, colours = size.image_shape
    narrow, area = stem_channels(size), counting.halved((height, width))
    parts = [
        counting.conv_norm(colours, narrow, 3, area),
        counting.relu(narrow, area),
        counting.conv_norm(narrow, size.channels, 3, counting.halved(area)),
    ]
    area, channels = counting.halved(area), size.channels
    for step in (step for module in steps(modules, size) for step in module):
        parts.append(block(step, area))
        area = counting.halved(area) if step.stride == 2 else area
        channels = step.outputs
    pool = Count(elementwise=channels * (area[0] + 1) * (area[1] + 1))
    return counting.in_series(*parts, pool, counting.dense(channels, size.num_classes))


def _relu_conv_norm(step: Step, kernel: int, area: Size) -> Count:
    """Counts ReLU, convolution and batch norm, for an input of that size."""
    after = counting.halved(area) if step.stride == 2 else area
    norm = counting.conv_norm(step.inputs, step.outputs, kernel, after)
    return counting.in_series(counting.relu(step.inputs, area), norm)


def _residual(step: Step, area: Size) -> Count:
    """Counts a residual block, for an input of that size."""
    after = counting.halved(area) if step.stride == 2 else area
    second = _relu_conv_norm(Step(step.outputs, step.outputs, 1), 3, after)
    convs = counting.in_series(_relu_conv_norm(step, 3, area), second)
    if step.stride == 1 and step.inputs == step.outputs:
        return convs
    return counting.beside(convs, counting.conv_norm(step.inputs, step.outputs, 1, after))


def _cell(names: Sequence[str], step: Step, area: Size) -> Count:
    """Counts a cell, for an input of that size."""
    after = counting.halved(area) if step.stride == 2 else area
    parts: list[Count] = []
    depths: dict[int, int] = {0: 0}  # of nodes that a path reaches
    for name, (source, target) in zip(names, EDGES, strict=True):
        own = Step(step.outputs, step.outputs, 1) if source else step
        part = _operation(name, own, after if source else area)
        parts.append(part)
        if name != "none" and source in depths:
            depths[target] = max(depths[source] + part.depth, depths.get(target, 0))
    return counting.beside(*parts)._replace(depth=depths.get(NUM_NODES - 1, 0))


@lru_cache(maxsize=4096)  # a network repeats few operations
def _operation(name: str, step: Step, area: Size) -> Count:
    """Counts one operation, for an input of that size."""
    if name in micro.KERNELS:
        return _relu_conv_norm(step, micro.KERNELS[name], area)
    # Two halves of a 1x1 convolution count as one; a skip that keeps the channels is none.
    is_identity = step.stride == 1 and step.inputs == step.outputs
    return Count() if name == "none" or is_identity else _relu_conv_norm(step, 1, area)
