"""PyTorch peers for the benchmark, as in the papers' codes: the network of a cell, and its NTK.

The NAS-Bench-201 macro network of one cell, with the benchmark's names of parameters (so that
`saboc_jax.spaces.nas_bench_201.torch_weights.load_torch_state` reads its weights), an ordinary
training step, and the NTK by one backward pass for each image. Needs the extra `peers`.

Source of the procedure: TE-NAS (Chen et al., 2021) and the papers after it; written by us.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from saboc_jax.spaces.nas_bench_201.cells import EDGES
from saboc_jax.spaces.nas_bench_201.space import STAGES

KERNEL_SIZES = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


class ReluConvNorm(nn.Module):
    """ReLU, convolution, batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [n, channels, height, width] to the same layout."""
        return self.op(x)


class Zero(nn.Module):
    """The operation `none`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns zeros like x."""
        return torch.zeros_like(x)


def operation(name: str, channels: int) -> nn.Module:
    """Returns the named operation of an edge."""
    if name in KERNEL_SIZES:
        return ReluConvNorm(channels, channels, KERNEL_SIZES[name])
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return nn.Identity() if name == "skip_connect" else Zero()


class TorchCell(nn.Module):
    """Four nodes, six edges; the last node is the output."""

    def __init__(self, operations: Sequence[str], channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(operation(name, channels) for name in operations)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sums the incoming edges of every node."""
        nodes = [x]
        for target in range(1, 4):
            incoming = [
                layer(nodes[source])
                for layer, (source, end) in zip(self.layers, EDGES, strict=True)
                if end == target
            ]
            nodes.append(sum(incoming[1:], start=incoming[0]))
        return nodes[-1]


class Reduction(nn.Module):
    """The residual block of stride 2 between stages."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_a = ReluConvNorm(inputs, outputs, 3, stride=2)
        self.conv_b = ReluConvNorm(outputs, outputs, 3)
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2, 2), nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halves height and width."""
        return self.downsample(x) + self.conv_b(self.conv_a(x))


class MacroNet(nn.Module):
    """Stem, three stages of equal cells with reductions between them, head."""

    def __init__(
        self, operations: Sequence[str], channels: int, num_cells: int, num_classes: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        blocks: list[nn.Module] = []
        for stage in range(STAGES):
            width = channels * 2**stage
            if stage:
                blocks.append(Reduction(width // 2, width))
            blocks += [TorchCell(operations, width) for _ in range(num_cells)]
        self.cells = nn.ModuleList(blocks)
        self.lastact = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps [n, 3, height, width] to logits [n, classes]."""
        x = self.stem(images)
        for cell in self.cells:
            x = cell(x)
        return self.classifier(self.lastact(x).mean((2, 3)))


def state_of(net: nn.Module) -> dict[str, np.ndarray]:
    """Returns the state dict as NumPy arrays, for `load_torch_state`."""
    return {name: value.numpy() for name, value in net.state_dict().items()}


def train_step(net: nn.Module, images: torch.Tensor) -> list[Any]:
    """Runs one forward and backward pass with batch statistics: the gradient of a plain loss."""
    net.zero_grad(set_to_none=True)
    net(images).square().mean().backward()
    return [parameter.grad for parameter in net.parameters()]


def ntk(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Computes the NTK [n, n] of the sum of logits over all weights, one backward pass per image.

    Batch norm uses the statistics of the batch, and gradients flow through them.
    """
    weights = [value for name, value in net.named_parameters() if "weight" in name]
    summed = net(images).sum(1)
    rows = []
    for index in range(len(images)):
        gradients = torch.autograd.grad(
            summed[index], weights, retain_graph=True, materialize_grads=True
        )
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def contestants(
    operations: Sequence[str],
    channels: int,
    num_cells: int,
    num_classes: int,
    images: np.ndarray,
    threads: int,
) -> dict[str, Callable[[], Any]]:
    """Returns a training step and the NTK of one cell, at torch's own initial weights.

    Args:
        operations: the name of the operation on each edge.
        channels: C.
        num_cells: N.
        num_classes: width of the outputs.
        images: [n, height, width, 3].
        threads: how many torch may use.
    """
    torch.set_num_threads(threads)
    net = MacroNet(operations, channels, num_cells, num_classes)
    batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return {"torch_step": lambda: train_step(net, batch), "torch_ntk": lambda: ntk(net, batch)}
