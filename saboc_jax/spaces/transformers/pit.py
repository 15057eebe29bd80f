"""The space of PiT (Heo et al., 2021), as Auto-Prox (Wei et al., 2024) trained it.

A pooling-based vision transformer: overlapping patches of 16 x 16 pixels with stride 8, learned
positions, three stages of layers; between stages a depthwise convolution halves the map, and a
dense layer brings the class token to the new width. The classifier reads the class token. An
architecture chooses the width of a head, the MLP ratio, and layers and heads of each stage; the
width of a stage is that of a head times its heads. The depthwise convolution needs a width that the
width before divides, so heads must not become fewer. Texts are JSON as in published tables.
"""

import itertools
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from saboc_jax.spaces import counting
from saboc_jax.spaces.gated import check_images, check_positive
from saboc_jax.spaces.masks import as_gates, check_architecture
from saboc_jax.spaces.notations import numbers_notation, reading
from saboc_jax.spaces.transformers import texts
from saboc_jax.spaces.transformers.assembly import transformer_space
from saboc_jax.spaces.transformers.layers import (
    SMALLEST_GRID,
    Grid,
    Head,
    Layer,
    Part,
    Pool,
    Stem,
    Transformer,
    TransformerNet,
    count_dense,
    count_layers,
)
from saboc_jax.types import Architecture, Cost, Decisions, SearchSpace

BASES = (16, 24, 32, 40)  # features of a head
RATIOS = (2, 4, 6, 8)
DEPTHS = ((1, 2, 3), (4, 6, 8), (2, 4, 6))
HEADS = (2, 4, 8)
STAGES = len(DEPTHS)
LEAST = tuple(depths[0] for depths in DEPTHS)
STRIDE = 8
TOKEN = (1, 1)  # the class token ends blocks: all that the classifier reads went through it
CHOICES = (len(BASES), len(RATIOS), *map(len, DEPTHS), *(len(HEADS),) * STAGES)
OPTION_NAMES = tuple(
    tuple(map(str, values)) for values in (BASES, RATIOS, *DEPTHS, *(HEADS,) * STAGES)
)
EXAMPLE = '{"base_dim":32,"mlp_ratio":4,"depth":[2,6,4],"num_heads":[2,4,8]}'
_FIRST_HEADS = 2 + STAGES  # the first decision about heads


class NetworkSize(NamedTuple):
    """The network of an architecture; defaults as Auto-Prox trained.

    Attributes:
        channels: features of the widest head; the others are fifths of it, rounded up.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
        least_layers: layers of each stage of the shallowest network.
    """

    channels: int = BASES[-1]
    num_classes: int = 100
    image_shape: tuple[int, int, int] = (224, 224, 3)
    least_layers: tuple[int, ...] = LEAST

    @property
    def stride(self) -> int:
        """The stride of patches: 8, halved until there are 4 x 4 patches, if there can be."""
        stride, side = STRIDE, min(self.image_shape[:2])
        while stride > 1 and _places(side, min(2 * stride, side), stride) < SMALLEST_GRID:
            stride //= 2
        return stride

    @property
    def patch(self) -> int:
        """The side of a patch: twice the stride."""
        return min(2 * self.stride, *self.image_shape[:2])

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The number of patches in a column and in a row, in each stage."""
        height, width = (_places(side, self.patch, self.stride) for side in self.image_shape[:2])
        return tuple(counting.halved((height, width), stage) for stage in range(STAGES))

    def width(self, base: int) -> int:
        """The features of a head that stand for one of `BASES`."""
        return -(-base * self.channels // BASES[-1])


TRAINED = NetworkSize()


def _places(side: int, patch: int, stride: int) -> int:
    return (side - patch) // stride + 1


def stages(arch: Architecture, size: NetworkSize = TRAINED) -> tuple[Transformer, ...]:
    """Returns the layers of each stage of an architecture [8]; ValueError if it is malformed."""
    options = list(map(int, check_architecture(arch, CHOICES)))
    base, ratio = size.width(BASES[options[0]]), RATIOS[options[1]]
    found = []
    for stage in range(STAGES):
        heads = HEADS[options[_FIRST_HEADS + stage]]
        more = DEPTHS[stage][options[2 + stage]] - LEAST[stage]
        depth = size.least_layers[stage] + more
        found.append(Transformer(base * heads, (heads,) * depth, (base * heads * ratio,) * depth))
    return tuple(found)


def trained_stages(arch: Architecture, size: NetworkSize = TRAINED) -> tuple[Transformer, ...]:
    """Returns the stages; ValueError if the heads of one do not divide those of the next."""
    found = stages(arch, size)
    heads = [stage.heads[0] for stage in found]
    if not _divide(heads):
        raise ValueError(
            f"num_heads={heads}; allowed: numbers that divide the next one, e.g. [2, 4, 8], for a "
            "depthwise convolution brings the features of one stage to the next"
        )
    return found


def _divide(heads: list[int]) -> bool:
    return all(after % before == 0 for before, after in itertools.pairwise(heads))


def to_string(arch: Architecture) -> str:
    """Writes an architecture as JSON, as in published tables."""
    options = list(map(int, check_architecture(arch, CHOICES)))
    return texts.write(
        base_dim=BASES[options[0]],
        mlp_ratio=RATIOS[options[1]],
        depth=[values[options[2 + stage]] for stage, values in enumerate(DEPTHS)],
        num_heads=[HEADS[option] for option in options[_FIRST_HEADS:]],
    )


def from_string(text: str) -> Architecture:
    """Reads what `to_string` writes, in any order, or the same as a dict of Python.

    Raises:
        ValueError: if the text is malformed, a value is no choice, or heads do not divide.
    """
    found = texts.read(text, ("base_dim", "mlp_ratio", "depth", "num_heads"))
    base = texts.option("base_dim", found["base_dim"], BASES)
    ratio = texts.option("mlp_ratio", found["mlp_ratio"], RATIOS)
    heads = texts.options("num_heads", found["num_heads"], HEADS, STAGES)
    depth = found["depth"]
    if not isinstance(depth, list | tuple) or len(depth) != STAGES:
        raise ValueError(f"depth={depth!r}; allowed: {STAGES} values, e.g. [2, 6, 4]")
    depths = [
        texts.option(f"depth of stage {stage}", value, DEPTHS[stage])
        for stage, value in enumerate(depth)
    ]
    arch = np.array([base, ratio, *depths, *heads], np.int32)
    trained_stages(arch)
    return arch


def is_connected(mask: Any) -> bool:
    """Returns whether the heads of each stage divide those of the next; True of a supernet.

    Args:
        mask: [8, 4] booleans or gates; non-zero entries are active.
    """
    active = np.asarray(mask) != 0
    if active.shape != (len(CHOICES), max(CHOICES)):
        raise ValueError(f"mask has shape {active.shape}; allowed: {(len(CHOICES), max(CHOICES))}")
    if (active.sum(1) != 1).any():
        return bool(active.any(1).all())
    return _divide([HEADS[option] for option in active[_FIRST_HEADS:].argmax(1)])


def cost(arch: Architecture, size: NetworkSize = TRAINED) -> Cost:
    """Counts parameters, multiply-accumulates and depth, with attention's two products.

    Of a stage and the next only the longer path counts in the depth: both the convolution of the
    map and the dense layer of the class token are one layer.
    """
    found = stages(arch, size)
    places = [height * width for height, width in size.grids]
    first = found[0].features
    parts = [
        count_dense(size.patch**2 * size.image_shape[2], first, places[0]),
        counting.Count((places[0] + 1) * first),  # positions, class token
    ]
    for stage, blocks in enumerate(found):
        if stage:
            before = found[stage - 1].features
            pool = count_dense(9, blocks.features, places[stage])
            parts.append(counting.beside(pool, counting.dense(before, blocks.features)))
        parts += count_layers(blocks, places[stage] + 1)
    last = found[-1].features
    return counting.in_series(
        *parts, counting.Count(2 * last), counting.dense(last, size.num_classes)
    ).cost


def network(arch: Architecture, size: NetworkSize = TRAINED) -> TransformerNet:
    """Returns the network of an architecture; ValueError if there is none."""
    found, grids = trained_stages(arch, size), size.grids
    stem = Stem(found[0].features, size.patch, size.stride, False, parent=None)
    parts: list[Part] = [("stem", stem, None)]  # where the class token has seen no image yet
    for stage, blocks in enumerate(found):
        if stage:
            pool = Pool(blocks.features, grids[stage - 1], parent=None)
            parts.append((f"pool_{stage}", pool, TOKEN))
        pairs = zip(blocks.heads, blocks.hidden, strict=True)
        for number, (heads, hidden) in enumerate(pairs):
            layer = Layer(heads, hidden, parent=None)
            parts.append((f"cells_{stage}_{number}", layer, TOKEN))
    head = Head(size.num_classes, None, parent=None)
    return TransformerNet((*parts, ("head", head, None)))


NOTATIONS = (numbers_notation(CHOICES),)
DECISIONS = Decisions(
    choices=CHOICES,
    option_names=OPTION_NAMES,
    to_string=to_string,
    from_string=reading("pit", from_string, EXAMPLE, NOTATIONS),
    gates=partial(as_gates, choices=CHOICES),
    canonical=to_string,
    is_connected=is_connected,
    notations=NOTATIONS,
)


def drawing(arch: Architecture) -> list[tuple[str, str, str]]:
    """Returns the layers as edges (source, target, heads and hidden width) between tokens."""
    return texts.chain(
        f"{heads} heads, MLP {hidden}"
        for stage in stages(arch)
        for heads, hidden in zip(stage.heads, stage.hidden, strict=True)
    )


def pit(
    channels: int = 5,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
    least_layers: tuple[int, ...] = LEAST,
) -> SearchSpace:
    """Makes PiT's space of vision transformers with a scoring network of a given size.

    Each architecture has a program of its own. One whose heads do not divide those of the next
    stage is flagged as disconnected and ranked last: there is no such network.

    Args:
        channels: features of the widest head (Auto-Prox trained with 40), 4 or more to tell the
            four widths apart.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image, of any size.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.
        least_layers: layers of each stage of the shallowest scoring network, up to (1, 4, 2).

    Raises:
        ValueError: if a size is not allowed, or the initialiser is unknown.
    """
    check_positive(channels=channels, num_classes=num_classes)
    check_images(image_shape)
    least = tuple(least_layers)
    if len(least) != STAGES or not all(
        1 <= n <= most for n, most in zip(least, LEAST, strict=True)
    ):
        raise ValueError(f"least_layers={least_layers}; allowed: (1, 1, 1) to {LEAST}")
    size = NetworkSize(channels, num_classes, image_shape, least)
    return transformer_space("pit", DECISIONS, size, init, network, cost, _trained)


def _trained(arch: Architecture) -> Cost:
    """Returns the cost of the network that was trained; ValueError if there is none."""
    trained_stages(arch)
    return cost(arch)
