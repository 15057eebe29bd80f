"""Costs of layers, to be added up: parameters, multiply-accumulates, depth, element-wise work.

A network's count is the sum of its layers' counts. Layers that run one after the other are added;
layers that run beside each other are added by `beside`, which takes the longer path as the depth.
"""

from typing import NamedTuple

from saboc_jax.types import Cost

Size = tuple[int, int]  # height and width of a feature map


class Count(NamedTuple):
    """What a part of a network costs for one image.

    Attributes:
        params: trainable parameters.
        macs: multiply-accumulates of convolutions and dense layers.
        depth: convolutions and dense layers on the longest path.
        elementwise: what TensorWatch adds to the multiply-accumulates, and published FLOPs hold:
            2 per element of a batch norm's output, 1 per element of a ReLU, the window's area per
            element of a pool's output.
    """

    params: int = 0
    macs: int = 0
    depth: int = 0
    elementwise: int = 0

    @property
    def cost(self) -> Cost:
        """The cost that a space gives."""
        return Cost(self.params, self.macs, self.depth)

    @property
    def flops(self) -> int:
        """Multiply-accumulates and element-wise work, as TensorWatch counts FLOPs."""
        return self.macs + self.elementwise


def in_series(*parts: Count) -> Count:
    """Returns the count of parts that run one after the other."""
    return Count(*map(sum, zip(*parts, strict=True)))


def beside(*parts: Count) -> Count:
    """Returns the count of parts of which none waits for another."""
    return in_series(*parts)._replace(depth=max(part.depth for part in parts))


def conv_norm(inputs: int, outputs: int, kernel: int, size: Size, groups: int = 1) -> Count:
    """Counts a convolution without bias, and a batch norm.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: its side.
        size: of the output.
        groups: feature groups.
    """
    weights = inputs // groups * outputs * kernel**2
    area = size[0] * size[1]
    return Count(weights + 2 * outputs, weights * area, 1, 2 * outputs * area)


def relu(channels: int, size: Size) -> Count:
    """Counts a ReLU."""
    return Count(elementwise=channels * size[0] * size[1])


def pool(channels: int, window: int, size: Size) -> Count:
    """Counts a pool with outputs of that size."""
    return Count(elementwise=window**2 * channels * size[0] * size[1])


def dense(inputs: int, outputs: int) -> Count:
    """Counts a dense layer with bias."""
    return Count((inputs + 1) * outputs, inputs * outputs, 1)


def halved(size: Size, times: int = 1) -> Size:
    """Returns the size after layers of stride 2; an odd side is rounded up."""
    return -(-size[0] // 2**times), -(-size[1] // 2**times)
