"""The size space of NATS-Bench (Dong et al., 2021): its network and its scoring network.

Stem, head and residual blocks are those of NAS-Bench-201; `encoding` says what the layers are.

Kernels are compiled part by part, with every part as wide as the widest choice: the parameters of a
network are slices of those, the others are zero, and so are the channels that they make, forward
and backward. So the programs of nine parts serve the space. Other scores compile each network.
"""

from functools import partial

from flax import linen as nn
from jaxtyping import Array, Float

from saboc_jax.layers.chain import Chain
from saboc_jax.layers.initialise import Initialiser, find_initialiser
from saboc_jax.layers.ops import (
    BatchNorm,
    Block,
    Conv,
    ConvNorm,
    Features,
    ReluConvNorm,
)
from saboc_jax.spaces.gated import check_halved, check_positive
from saboc_jax.spaces.nas_bench_201 import cells
from saboc_jax.spaces.nas_bench_201.space import Head, Reduction, Stem
from saboc_jax.spaces.nats_sss import encoding, texts
from saboc_jax.spaces.nats_sss.encoding import OPERATIONS, REDUCTIONS, NetworkSize
from saboc_jax.spaces.plain import Part, cheapest_listed, in_sequence, plain_networks
from saboc_jax.types import Costs, Images, SearchSpace


class Cell(nn.Module):
    """A cell that maps its input to `features` channels.

    Attributes:
        features: channels.
        project: whether its input has other channels, so that a skip of it is a convolution.
        train: True: batch norm uses batch statistics; False: running statistics.
    """

    features: int
    project: bool = False
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        nodes = [x]
        for target in range(1, cells.NUM_NODES):
            found = [
                self._edge(number, source, nodes[source])
                for number, (source, end) in enumerate(cells.EDGES)
                if end == target
            ]
            nodes.append(sum(found[1:], start=found[0]))
        return nodes[-1]

    def _edge(self, number: int, source: int, x: Features) -> Features:
        name = f"edge_{number}"
        if OPERATIONS[number] == "nor_conv_3x3":
            return ReluConvNorm(self.features, 3, 1, self.train, name=name)(x)
        if source or not self.project:
            return x
        conv = Conv(self.features, 1, name=f"{name}_conv")
        return ConvNorm(conv, BatchNorm(self.train, name=f"{name}_norm"))(x)


class SizedNet(nn.Module):
    """The network of one setting: a plain module, to train or inspect.

    Attributes:
        widths: channels of the five layers.
        num_cells: cells of a stage.
        num_classes: width of the outputs.
    """

    widths: tuple[int, ...]
    num_cells: int = 1
    num_classes: int = 10

    def parts(self, train: bool) -> list[Part]:
        """Returns the parts in order, without widened ones."""
        found = [Part("stem", Stem(self.widths[0], train, parent=None))]
        for layer, features in enumerate(self.widths):
            if layer in REDUCTIONS:
                found.append(Part(f"cells_{layer}", Reduction(features, train, parent=None)))
                continue
            before = self.widths[max(layer - 1, 0)]
            for number in range(self.num_cells):
                project = number == 0 and before != features
                cell = Cell(features, project, train, parent=None)
                found.append(Part(f"cells_{layer}_{number}", cell))
        return [*found, Part("head", Head(self.num_classes, train, parent=None))]

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "n classes"]:
        x = images
        *body, head = self.parts(train)
        for name, module, _ in body:
            x = module.clone(parent=self, name=name)(x)
            x = Block(name=f"{name}_output")(x)
        return head.module.clone(parent=self, name=head.name)(x)


def _chain(size: NetworkSize, net: SizedNet, initialiser: Initialiser) -> Chain:
    """Returns the parts of a network as links, which run as wide as the widest choice."""
    *body, head = net.parts(train=True)
    wide = [part._replace(runs=part.module.clone(features=size.channels)) for part in body]
    return in_sequence([*wide, head], size.image_shape, initialiser)


def nats_sss(
    channels: int = 8,
    num_cells: int = 1,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    init: str = "kaiming_normal_fan_in",
) -> SearchSpace:
    """Makes NATS-Bench's size space with a scoring network of a given size.

    Args:
        channels: of the widest choice (the benchmark trained with 64); the others are eighths of
            it, rounded up. With less than 8, choices share widths.
        num_cells: cells of each stage (the benchmark trained with 1).
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image, with sides that are multiples of 4.
        init: a name in `saboc_jax.layers.initialise.INITIALISERS`.

    Raises:
        ValueError: if a size is not positive, an image side is not a multiple of 4, or the
            initialiser is unknown.
    """
    check_positive(channels=channels, num_cells=num_cells, num_classes=num_classes)
    check_halved(image_shape, times=len(REDUCTIONS))
    size = NetworkSize(channels, num_cells, num_classes, image_shape)
    return SearchSpace(
        name="nats_sss",
        decisions=texts.DECISIONS,
        networks=plain_networks(
            lambda arch: SizedNet(encoding.widths(arch, channels), num_cells, num_classes),
            encoding.CHOICES,
            find_initialiser(init),
            name="nats_sss",
            image_shape=image_shape,
            num_classes=num_classes,
            chain=partial(_chain, size),
        ),
        costs=Costs(
            of=lambda arch: encoding.cost(arch, size),
            cheapest=cheapest_listed,
            trained=encoding.cost,
        ),
    )
