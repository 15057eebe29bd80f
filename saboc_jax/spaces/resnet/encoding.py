"""Zen-NAS's ResNet space as data: structures, their text, cost and mutation.

A structure is a stem, super-blocks, and a tail; its text is a concatenation of

    SuperConvK3BNRELU(in,out,stride,sub_layers)            stem (and K1 for the tail)
    SuperResK3K3(in,out,stride,bottleneck,sub_layers)       one residual unit per sub-layer
    SuperResK1K3K1(in,out,stride,bottleneck,sub_layers)     two bottleneck units per sub-layer

with kernels 3, 5 or 7. The preceding block determines the input channels, so an architecture
stores only (kind, out, stride, bottleneck, sub-layers) per slot; a slot of kind "none" is empty.

Source: Lin et al. (2021), "Zen-NAS", and its released code's conventions.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from saboc_jax.types import Architecture, Cost, PRNGKey

STEP, MAX_WIDTH = 8, 2048  # widths are multiples of STEP
MAX_SUB_LAYERS = 5  # of one super-block; deeper ones are split
KINDS = ("none", "K1K3K1", "K1K5K1", "K1K7K1", "K3K3", "K5K5", "K7K7")
FIELDS = ("kind", "out", "stride", "bottleneck", "sub_layers")
MULTIPLIERS = (2.5, 2, 1.5, 1.25, 1, 1 / 1.25, 1 / 1.5, 1 / 2, 1 / 2.5)
START = (
    "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,1,8,1)SuperResK3K3(16,32,2,16,1)"
    "SuperResK3K3(32,64,2,32,1)SuperResK3K3(64,64,2,32,1)SuperConvK1BNRELU(64,128,1,1)"
)


class SuperBlock(NamedTuple):
    """`sub_layers` repetitions; with `stride` 2 only the first one halves the image."""

    kind: str
    out: int
    stride: int
    bottleneck: int
    sub_layers: int


class Structure(NamedTuple):
    """Widths of stem and tail, and the super-blocks between them."""

    stem: int
    blocks: tuple[SuperBlock, ...]
    tail: int


class Unit(NamedTuple):
    """One residual unit: kernel sizes and channels of its convolutions, stride, projection."""

    kernels: tuple[int, ...]
    channels: tuple[int, ...]
    stride: int
    project: bool


def choices(slots: int, max_width: int) -> tuple[int, ...]:
    """Returns the number of options of each decision: stem, five for each slot, tail."""
    widths = max_width // STEP
    return (widths, *(len(KINDS), widths, 2, widths, MAX_SUB_LAYERS) * slots, widths)


def option_names(slots: int, max_width: int) -> tuple[tuple[str, ...], ...]:
    """Returns the names of the options of each decision."""
    widths = tuple(str(width) for width in range(STEP, max_width + 1, STEP))
    layers = tuple(map(str, range(1, MAX_SUB_LAYERS + 1)))
    return (widths, *(KINDS, widths, ("1", "2"), widths, layers) * slots, widths)


def decode(arch: Any) -> Structure:
    """Returns the structure of an architecture without its empty slots."""
    stem, *slots, tail = map(int, arch)
    rows = [slots[i : i + len(FIELDS)] for i in range(0, len(slots), len(FIELDS))]
    blocks = tuple(
        SuperBlock(KINDS[kind], _width(out), stride + 1, _width(bottleneck), layers + 1)
        for kind, out, stride, bottleneck, layers in rows
        if kind
    )
    return Structure(_width(stem), blocks, _width(tail))


def encode(structure: Structure, slots: int, max_width: int) -> Architecture:
    """Returns the architecture of a structure: super-blocks first, then empty slots.

    Raises:
        ValueError: if it has too many super-blocks or sub-layers, or a width that does not exist.
    """
    if len(structure.blocks) > slots:
        raise ValueError(f"{len(structure.blocks)} super-blocks; allowed: at most {slots}")
    option = partial(_width_option, max_width=max_width)
    values = [option(structure.stem)]
    for block in structure.blocks:
        if not 1 <= block.sub_layers <= MAX_SUB_LAYERS or block.stride not in (1, 2):
            raise ValueError(
                f"{block}; allowed: 1 to {MAX_SUB_LAYERS} sub-layers (as Zen-NAS's search, which "
                "splits deeper ones in two), stride 1 or 2"
            )
        values += [KINDS.index(block.kind), option(block.out), block.stride - 1]
        values += [option(block.bottleneck), block.sub_layers - 1]
    values += [0] * len(FIELDS) * (slots - len(structure.blocks))
    return np.array([*values, option(structure.tail)], np.int32)


def _width(option: int) -> int:
    return STEP * (option + 1)


def _width_option(width: int, max_width: int) -> int:
    if width % STEP or not STEP <= width <= max_width:
        raise ValueError(f"width {width}; allowed: multiples of {STEP} up to {max_width}")
    return width // STEP - 1


# --- text -----------------------------------------------------------------------------------------


def to_text(structure: Structure, channels: int = 3) -> str:
    """Returns Zen-NAS's encoding string of a network for images of `channels` channels."""
    parts = [f"SuperConvK3BNRELU({channels},{structure.stem},1,1)"]
    before = structure.stem
    for block in structure.blocks:
        numbers = (before, block.out, block.stride, block.bottleneck, block.sub_layers)
        parts.append(f"SuperRes{block.kind}({','.join(map(str, numbers))})")
        before = block.out
    return "".join([*parts, f"SuperConvK1BNRELU({before},{structure.tail},1,1)"])


_PART = re.compile(r"(\w+)\(([\d,]*)\)")


def from_text(text: str, channels: int = 3) -> Structure:
    """Reads the structure from Zen-NAS's encoding string.

    Raises:
        ValueError: if the string is malformed, or a block's input channels do not match the
            outputs of the block before.
    """
    text = "".join(text.split())
    found = list(_PART.finditer(text))
    if len(found) < 2 or "".join(part[0] for part in found) != text:
        raise ValueError(f"{text!r} is no structure; the layout is {START}")
    parts = [(part[1], [int(n) for n in part[2].split(",") if n]) for part in found]
    before = channels
    for number, (name, numbers) in enumerate(parts):
        place = "stem" if not number else "tail" if number == len(parts) - 1 else "block"
        _check_part(name, numbers, place)
        if numbers[0] != before:
            raise ValueError(f"{name}({numbers[0]},...) follows {before} channels; allowed: equal")
        before = numbers[1]
    blocks = tuple(SuperBlock(name[8:], *numbers[1:]) for name, numbers in parts[1:-1])
    return Structure(parts[0][1][1], blocks, parts[-1][1][1])


def _check_part(name: str, numbers: list[int], place: str) -> None:
    if place == "block":
        if name.removeprefix("SuperRes") not in KINDS[1:] or len(numbers) != 5:
            raise ValueError(
                f"{name} with {len(numbers)} numbers is no super-block; allowed: SuperRes and one "
                f"of {KINDS[1:]}, with 5 numbers"
            )
        return
    expected = {"stem": "SuperConvK3BNRELU", "tail": "SuperConvK1BNRELU"}[place]
    if name != expected or len(numbers) != 4 or numbers[2:] != [1, 1]:
        raise ValueError(f"{place} {name}{tuple(numbers)}; allowed: {expected}(in,out,1,1)")


# --- counting -------------------------------------------------------------------------------------


def units(structure: Structure) -> list[list[Unit]]:
    """Returns the residual units of every super-block. The first of each has a projection."""
    before, result = structure.stem, []
    for block in structure.blocks:
        sizes = tuple(int(k) for k in block.kind[1:].split("K"))
        inner = (block.bottleneck,) * (len(sizes) - 1)
        number = block.sub_layers * (2 if len(sizes) == 3 else 1)
        result.append(
            [
                Unit(sizes, (before, *inner, block.out), block.stride, True)
                if index == 0
                else Unit(sizes, (block.out, *inner, block.out), 1, False)
                for index in range(number)
            ]
        )
        before = block.out
    return result


Shape = tuple[int, int, int]
"""(height, width, channels) of one image."""


class Conv(NamedTuple):
    """A convolution and the batch norm after it, for counting."""

    kernel: int
    inputs: int
    outputs: int
    area: int  # output pixels
    bias: bool


def convolutions(structure: Structure, image_shape: Shape) -> Iterator[Conv]:
    """Yields every convolution of the network; a batch norm follows each."""
    height, width, channels = image_shape
    yield Conv(3, channels, structure.stem, height * width, False)
    for unit in (unit for block in units(structure) for unit in block):
        halved = -(-height // unit.stride), -(-width // unit.stride)
        for index, kernel in enumerate(unit.kernels):
            # Only the first convolution with a kernel larger than 1 has the stride.
            height, width = halved if index >= _strided(unit) else (height, width)
            pixels = height * width
            yield Conv(kernel, unit.channels[index], unit.channels[index + 1], pixels, False)
        if unit.project:
            yield Conv(1, unit.channels[0], unit.channels[-1], height * width, True)
    last = structure.blocks[-1].out if structure.blocks else structure.stem
    yield Conv(1, last, structure.tail, height * width, False)


def _strided(unit: Unit) -> int:
    """Returns the index of the convolution with the stride: the first larger than 1 x 1."""
    return next(index for index, kernel in enumerate(unit.kernels) if kernel > 1)


def count_layers(structure: Structure) -> int:
    """Returns Zen-NAS's number of layers: the sub-layers, stem and tail."""
    return 2 + sum(block.sub_layers for block in structure.blocks)


def cost(structure: Structure, image_shape: Shape, num_classes: int) -> Cost:
    """Counts trainable parameters, multiply-accumulates (convolutions, dense layer) and depth."""
    convs = list(convolutions(structure, image_shape))
    params = sum(c.kernel**2 * c.inputs * c.outputs + (2 + c.bias) * c.outputs for c in convs)
    macs = sum(c.kernel**2 * c.inputs * c.outputs * c.area for c in convs)
    depth = 3 + sum(len(unit.kernels) for block in units(structure) for unit in block)
    dense = structure.tail * num_classes
    return Cost(params + dense + num_classes, macs + dense, depth)


def zen_size(structure: Structure, image_shape: Shape, num_classes: int) -> Cost:
    """Counts the cost as Zen-NAS does; its budgets refer to this count.

    A batch norm has C parameters (not 2 C) and costs one operation per output. The batch norm of
    a projection has no parameters besides the projection's bias. The dense layer has one bias.
    `depth` is the number of layers, see `count_layers`.
    """
    convs = list(convolutions(structure, image_shape))
    params = sum((c.kernel**2 * c.inputs + 1) * c.outputs for c in convs)
    macs = sum((c.kernel**2 * c.inputs + 1) * c.outputs * c.area for c in convs)
    dense = structure.tail * num_classes
    return Cost(params + dense + 1, macs + dense, count_layers(structure))


# --- mutation -------------------------------------------------------------------------------------


def _successors(max_width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the width options each width may change to, padded [widths, 9], and their counts."""
    rows = []
    for width in range(STEP, max_width + 1, STEP):
        scaled = np.round(width * np.array(MULTIPLIERS) / STEP).clip(1, max_width // STEP)
        rows.append(np.unique(scaled.astype(int)) - 1)
    table = np.array([np.pad(row, (0, len(MULTIPLIERS) - len(row))) for row in rows])
    return table, np.array([len(row) for row in rows])


def mutate(
    key: PRNGKey, arch: Int[Array, " decisions"], max_width: int = MAX_WIDTH, blocks: int = 1
) -> Int[Array, " decisions"]:
    """Replaces random blocks as Zen-NAS does; works under jit and vmap.

    Stem, tail and present super-blocks are equally likely. Stem and tail change their width. A
    super-block changes kind, width, bottleneck and sub-layers (s - 2 to s + 2, above 0) all at
    once, each uniformly over its distinct values, including the current one. Strides stay. A
    super-block that would get 6 or 7 sub-layers is split into 3 and the rest; the second part
    has stride 1.

    Deviation: if no slot is free for the second part, it is dropped. A bug of the released code
    that draws earlier kinds more often is not reproduced.

    Args:
        key: consumed.
        arch: [decisions]; empty slots come last.
        max_width: the largest width.
        blocks: number of blocks drawn before any is replaced; a block drawn twice is replaced
            once.
    """
    table, counts = (jnp.asarray(values, arch.dtype) for values in _successors(max_width))

    def vary(key: PRNGKey, option: Array) -> Array:
        return table[option, jax.random.randint(key, (), 0, counts[option], arch.dtype)]

    stem, rows, tail = arch[0], arch[1:-1].reshape(-1, len(FIELDS)), arch[-1]
    present, slots = (rows[:, 0] > 0).sum(), jnp.arange(len(rows))[:, None]
    after = rows
    for own in jax.random.split(key, blocks):
        keys = jax.random.split(own, 5)
        block = jax.random.randint(keys[0], (), 0, present + 2) - 1
        # -1: the stem; present: the tail. Vary the original values, not those already varied.
        stem = jnp.where(block == -1, vary(keys[1], arch[0]), stem)
        tail = jnp.where(block == present, vary(keys[1], arch[-1]), tail)
        chosen = (slots == block) & (block < present)
        after = jnp.where(chosen, _vary_block(keys[2:], rows[block], vary), after)
    for _ in range(blocks):
        after = _split_deep(after)
    return jnp.concatenate([stem[None], after.reshape(-1), tail[None]]).astype(arch.dtype)


def _vary_block(keys: Any, row: Int[Array, "5"], vary: Any) -> Int[Array, "5"]:
    """Varies a super-block; its last entry may exceed the options of a slot."""
    kind_key, layers_key, width_key = keys
    kind = jax.random.randint(kind_key, (), 1, len(KINDS), row.dtype)
    low = jnp.maximum(row[4] - 2, 0)
    layers = jax.random.randint(layers_key, (), low, row[4] + 3, row.dtype)
    one, two = jax.random.split(width_key)
    return jnp.stack([kind, vary(one, row[1]), row[2], vary(two, row[3]), layers])


def _split_deep(rows: Int[Array, "slots 5"]) -> Int[Array, "slots 5"]:
    """Splits the first super-block that is too deep in two."""
    deep, slots = rows[:, 4] >= MAX_SUB_LAYERS, jnp.arange(len(rows))[:, None]
    block = deep.argmax()
    first = rows[block].at[4].set(3 - 1)
    second = rows[block].at[4].add(-3).at[2].set(0)
    later = jnp.roll(rows, 1, axis=0)  # the last slot wraps around: if all are full, use `kept`
    split = jnp.where(slots < block, rows, later)
    split = jnp.where(slots == block, first, jnp.where(slots == block + 1, second, split))
    full = (rows[:, 0] > 0).all()
    kept = jnp.where(slots == block, first, rows)
    return jnp.where(deep.any(), jnp.where(full, kept, split), rows)
