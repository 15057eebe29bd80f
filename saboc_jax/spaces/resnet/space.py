"""The ResNet space of Zen-NAS: residual and bottleneck super-blocks, kernels 3, 5 and 7.

Depth, widths and kernels change the shapes of a network, so no single program serves the space:
`ProgramEach` gives each architecture its own. To compile less, the network is also a `Chain` of
its layers (`spaces.resnet.chain`). Scorers that support chains compile one program per layer:
layers of equal shapes share it, within a network and across networks. A mutation changes a block
or two, so most layers of a child are already compiled.

`spaces.resnet.encoding` has structures, texts, counting and mutation.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.initialise import find_initialiser
from saboc_jax.layers.ops import BatchNorm, Block, Conv, ConvNorm, Features, Relu
from saboc_jax.layers.tree import Remembered
from saboc_jax.spaces.gated import check_positive
from saboc_jax.spaces.masks import as_gates, check_architecture
from saboc_jax.spaces.notations import numbers_notation, reading
from saboc_jax.spaces.plain import cheapest_listed, only_architecture
from saboc_jax.spaces.resnet import chain as resnet_chain
from saboc_jax.spaces.resnet import encoding
from saboc_jax.spaces.resnet.chain import EPSILON, Head
from saboc_jax.spaces.resnet.paths import structure
from saboc_jax.types import (
    Costs,
    Decisions,
    Images,
    OneProgram,
    ProgramEach,
    SearchHints,
    SearchSpace,
    Variables,
)

CACHED = 1024  # number of cached programs


class ConvNormRelu(nn.Module):
    """Convolution, batch norm, ReLU: stem and tail."""

    features: int
    kernel_size: int
    label: str
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        conv = Conv(self.features, self.kernel_size, name="conv")
        x = ConvNorm(conv, BatchNorm(self.train, epsilon=EPSILON, name="norm"))(x)
        x = Relu(name="relu")(x)
        return Block(name=self.label)(x)


class Residual(nn.Module):
    """A residual unit: convolutions with batch norm, ReLU between, shortcut, ReLU.

    Attributes:
        kernels: kernel size of each convolution.
        channels: outputs of each convolution.
        stride: stride of the first convolution larger than 1 x 1, and of the projection.
        project: whether the shortcut is a 1x1 convolution (with bias) and batch norm.
        shortcut: False: no shortcut at all, as Zen-NAS scores.
        train: True: batch norm uses batch statistics; False: running statistics.
    """

    kernels: tuple[int, ...]
    channels: tuple[int, ...]
    stride: int = 1
    project: bool = False
    shortcut: bool = True
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        norm = partial(BatchNorm, self.train, epsilon=EPSILON)
        strided = next(index for index, kernel in enumerate(self.kernels) if kernel > 1)
        y = x
        for index, (kernel, width) in enumerate(zip(self.kernels, self.channels, strict=True)):
            stride = self.stride if index == strided else 1
            conv = Conv(width, kernel, stride, name=f"conv_{index}")
            y = ConvNorm(conv, norm(name=f"norm_{index}"))(y)
            y = Relu(name=f"relu_{index}")(y) if index < len(self.kernels) - 1 else y
        if self.shortcut and self.project:
            x = Conv(self.channels[-1], 1, self.stride, use_bias=True, name="projection")(x)
            x = norm(name="projection_norm")(x)
        y = Relu(name="relu")(x + y if self.shortcut else y)
        return Block(name="output")(y)


def links(
    structure: encoding.Structure, num_classes: int, train: bool = True, shortcut: bool = True
) -> list[tuple[str, nn.Module]]:
    """Returns (name, unattached module) of all parts of a network, in order of application."""
    found: list[tuple[str, nn.Module]] = [
        ("stem", ConvNormRelu(structure.stem, 3, "output", train, parent=None))
    ]
    for number, block in enumerate(encoding.units(structure)):
        for index, unit in enumerate(block):
            module = Residual(
                unit.kernels,
                unit.channels[1:],
                unit.stride,
                unit.project,
                shortcut,
                train,
                parent=None,
            )
            found.append((f"block_{number}_{index}", module))
    found.append(("tail", ConvNormRelu(structure.tail, 1, "features", train, parent=None)))
    return [*found, ("head", Head(num_classes, parent=None))]


class ResNet(nn.Module):
    """The network of one structure: a plain module, to train or inspect."""

    structure: encoding.Structure
    num_classes: int = 10
    shortcut: bool = True

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "n classes"]:
        x = images
        for name, module in links(self.structure, self.num_classes, train, self.shortcut):
            x = module.clone(parent=self, name=name)(x)
        return x


def resnet(
    slots: int = 16,
    max_width: int = encoding.MAX_WIDTH,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
    shortcut: bool = True,
    pad_widths: bool = True,
) -> SearchSpace:
    """Makes Zen-NAS's ResNet space, scored with the full decoded network.

    Random architectures are far beyond any sensible budget: search by evolution with a budget. It
    starts from `encoding.START` and mutates two blocks per child with `encoding.mutate`
    (`SearchHints.evolution`).

    Args:
        slots: largest number of super-blocks.
        max_width: the largest number of channels, a multiple of 8.
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.
        shortcut: False: no residual links, as Zen-NAS scores.
        pad_widths: compute kernels with channels zero-padded to powers of two, at least 16. This
            gives the same kernels up to rounding with far fewer programs, for up to four times
            the arithmetic and twice the memory of features (more below 16 channels).

    Raises:
        ValueError: if a size or the initialiser is wrong.
    """
    check_positive(slots=slots, num_classes=num_classes)
    _check(max_width, image_shape)
    initialiser = find_initialiser(init)
    choices = encoding.choices(slots, max_width)
    channels = image_shape[2]
    decode = lambda arch: encoding.decode(check_architecture(arch, choices))  # noqa: E731
    to_string = lambda arch: encoding.to_text(decode(arch), channels)  # noqa: E731
    own = lambda text: encoding.encode(  # noqa: E731
        encoding.from_text(text, channels), slots, max_width
    )
    notations = (numbers_notation(choices),)
    facts: dict[str, Any] = {
        "image_shape": image_shape,
        "num_classes": num_classes,
        "specialise": lambda arch: ResNet(decode(arch), num_classes, shortcut),
    }

    def program(structure: encoding.Structure) -> OneProgram:
        chain = resnet_chain.chain(structure, num_classes, initialiser, shortcut, pad_widths)
        return OneProgram(
            init=lambda key: {"params": chain.init(key, image_shape)},
            apply=partial(_apply, ResNet(structure, num_classes, shortcut)),
            in_cells=lambda path: path[0].startswith("block_"),
            chain=chain,
            known_layers=True,
            **facts,
        )

    programs = Remembered(program, CACHED)
    return SearchSpace(
        name="resnet",
        decisions=Decisions(
            choices=choices,
            option_names=encoding.option_names(slots, max_width),
            to_string=to_string,
            from_string=reading("resnet", own, encoding.START, notations),
            notations=notations,
            gates=partial(as_gates, choices=choices),
            canonical=to_string,
            is_connected=lambda mask: True,
        ),
        networks=ProgramEach(
            program=lambda mask: programs(decode(only_architecture(mask, choices, "resnet"))),
            **facts,
        ),
        costs=Costs(
            of=lambda arch: encoding.cost(decode(arch), image_shape, num_classes),
            cheapest=cheapest_listed,
            trained=lambda arch: encoding.cost(decode(arch), (32, 32, 3), 10),  # on CIFAR-10
            structure=lambda arch: structure(decode(arch), image_shape, num_classes),
        ),
        hints=SearchHints(evolution=partial(_evolution, slots, max_width)),
    )


def _evolution(slots: int, max_width: int) -> dict[str, Any]:
    """Returns the options of evolution: its start and its mutations."""
    return {
        "start": encoding.encode(encoding.from_text(encoding.START), slots, max_width),
        "mutate": partial(encoding.mutate, max_width=max_width, blocks=2),
        "mutate_start": partial(encoding.mutate, max_width=max_width),
    }


def _check(max_width: int, image_shape: tuple[int, int, int]) -> None:
    if max_width % encoding.STEP or not encoding.STEP <= max_width <= encoding.MAX_WIDTH:
        raise ValueError(
            f"max_width={max_width}; allowed: multiples of {encoding.STEP} up to "
            f"{encoding.MAX_WIDTH}"
        )
    if len(image_shape) != 3 or image_shape[0] != image_shape[1] or min(image_shape) < 1:
        raise ValueError(f"image_shape={image_shape}; allowed: (side, side, channels)")


def _apply(
    module: nn.Module,
    variables: Variables,
    gates: Any,
    images: Images,
    mutable: Sequence[str] = (),
) -> tuple[Array, Variables]:
    return module.apply(variables, images, True, mutable=list(mutable))
