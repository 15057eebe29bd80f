"""Linen operations that the search spaces are built from.

They are plain Flax modules. Scorers get everything beyond a forward pass (batch norm statistics of
another batch, Gram matrices, activation patterns) from outside, through
`flax.linen.intercept_methods`. Interceptors can observe or replace `Relu`, `nn.Conv`, `nn.Dense`,
`nn.BatchNorm`, `ConvNorm` (a convolution and a batch norm that can be treated as one layer) and
`Block`, in these modules and in any other Flax module.

Convolutions pad as in PyTorch (k // 2 on both sides, also at stride 2), because published
accuracies and scores were computed that way; "SAME" pads an even input on one side only.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.layers.channels import statistics
from saboc_jax.layers.convolutions import shifted

Features = Float[Array, "n height width channels"]
EPSILON = 1e-5  # of every batch norm of NAS-Bench-201 and DARTS
BLOCK_INPUTS = "block_inputs"  # a collection that passes arrays to interceptors of each `Block`


class Relu(nn.Module):
    """ReLU as a module, so that its input can be observed."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return nn.relu(x)


class Block(nn.Module):
    """The identity; marks the output of a block (stem, cell, reduction)."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return x


class Conv(nn.Module):
    """A convolution without bias that pads k // 2 times the dilation on both sides.

    Attributes:
        features: output channels.
        kernel_size: k of the k x k kernel.
        stride: of both axes.
        dilation: of both axes.
        groups: feature groups.
        use_bias: whether a bias is added.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Features) -> Features:
        strides, padding, dilation, groups = self.geometry()
        return nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=strides,
            padding=padding,
            kernel_dilation=dilation,
            feature_group_count=groups,
            use_bias=self.use_bias,
            kernel_init=nn.initializers.kaiming_normal(),
            name="conv",
        )(x)

    def geometry(self) -> tuple[Any, ...]:
        """Returns the geometry that `saboc_jax.layers.convolutions.convolve` takes."""
        pad = self.dilation * (self.kernel_size // 2)
        pads = ((pad, pad), (pad, pad))
        return (self.stride,) * 2, pads, (self.dilation,) * 2, self.groups


class _BatchNorm(nn.BatchNorm):
    """Flax's batch norm, but batch statistics need no collection if they are not recorded."""

    @nn.compact
    def __call__(  # type: ignore[override]  # no mask: all pixels count
        self, x: Features, use_running_average: bool | None = None
    ) -> Features:
        training = not (self.use_running_average or use_running_average)
        if not training or self.is_mutable_collection("batch_stats"):
            return super().__call__(x, use_running_average)
        shape = (x.shape[-1],)
        mean, variance = statistics(x)
        y = (x - mean) * lax.rsqrt(variance + self.epsilon)
        if self.use_scale:
            y = y * self.param("scale", nn.initializers.ones, shape)
        return y + self.param("bias", nn.initializers.zeros, shape) if self.use_bias else y


class BatchNorm(nn.Module):
    """Batch normalisation; batch statistics unless `train` is False.

    Attributes:
        train: use the statistics of the batch (and update the running ones).
        affine: with scale and bias.
        epsilon: added to the variance.
    """

    train: bool = True
    affine: bool = True
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return _BatchNorm(
            use_running_average=not self.train,
            momentum=0.9,
            epsilon=self.epsilon,
            use_fast_variance=False,
            use_bias=self.affine,
            use_scale=self.affine,
            name="norm",
        )(x)


class ConvNorm(nn.Module):
    """A convolution, then a batch norm; an interceptor can treat both as one layer.

    Both keep the names and the parameters given by the module that makes them.

    Attributes:
        conv: the convolution.
        norm: the batch norm.
    """

    conv: Conv
    norm: BatchNorm

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return self.norm(self.conv(x))


class ReluConvNorm(nn.Module):
    """ReLU, convolution, batch norm: the convolution of NAS-Bench-201 and DARTS cells."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    train: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Features:
        x = Relu(name="relu")(x)
        conv = Conv(self.features, self.kernel_size, self.stride, name="conv")
        return ConvNorm(conv, BatchNorm(self.train, name="norm"))(x)


def average_pool(x: Features, size: int = 3, stride: int = 1) -> Features:
    """Applies average pooling that pads `size // 2` and counts only real pixels.

    As PyTorch's count_include_pad=False. NumPy computes the divisor: XLA's constant folding of it
    would take seconds. Overlapping windows are sums of shifted images: XLA on the CPU fuses them
    into one loop, eight times faster than its `reduce_window`.
    """
    pad = size // 2 if size % 2 else 0
    if stride < size:
        taps = shifted((stride, stride), ((pad, pad), (pad, pad)), (1, 1), (size, size), x)
        total = sum(taps[1:], start=taps[0])
    else:
        padding = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        window, strides = (1, size, size, 1), (1, stride, stride, 1)
        total = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, strides, padding)
    counts = np.outer(*(_window_counts(length, size, stride, pad) for length in x.shape[1:3]))
    return total / jnp.asarray(counts[None, :, :, None], x.dtype)


def _window_counts(length: int, size: int, stride: int, pad: int) -> np.ndarray:
    starts = np.arange(0, length + 2 * pad - size + 1, stride) - pad
    return np.minimum(starts + size, length) - np.maximum(starts, 0)


def max_pool(x: Features, size: int = 3, stride: int = 1) -> Features:
    """Applies max pooling that pads `size // 2` with minus infinity."""
    pad = size // 2
    return nn.max_pool(x, (size, size), (stride, stride), ((pad, pad), (pad, pad)))


class Within(nn.Module):
    """Runs a module under a name, so that interceptors see the path it has in the supernet.

    The supernet applies an operation inside a `lax.scan` over stacked parameters. Without the
    name an interceptor could not tell a cell's convolution from a reduction's.
    """

    label: str
    make: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return self.make(name=self.label)(x)
