"""Costs that the benchmark counts instead of measuring: multiply-adds, activations, memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from saboc_jax.layers.rules import batch_norm_rule
from saboc_jax.ntk.empirical import empirical_ntks
from saboc_jax.ntk.network import from_module
from saboc_jax.ntk.options import NTKOptions
from saboc_jax.spaces.nas_bench_201.cells import OPERATIONS
from saboc_jax.spaces.nas_bench_201.space import PARAMETRIC, STAGES

from .contestants import Case, module_train_step, ntk, train_step

PASSES = 3  # forward, gradient of the input, per-image gradients of the weights
RELU_CONV_NORM = 3  # feature maps that one such block writes


def ntk_flops(case: Case) -> float:
    """Returns the floating-point operations that any exact NTK of a cell needs.

    Counts two for each multiply-add of the three passes over all images, and of the Gram matrix.
    """
    cost, n = case.space.cost(case.arch), len(case.images)
    return 2.0 * (PASSES * n * cost.macs + n * n * cost.params)


def activation_bytes(
    mask: Any, channels: int, cells: int, image_shape: tuple[int, int, int], images: int
) -> int:
    """Returns the bytes of the float32 feature maps that a forward pass writes.

    Every ReLU, convolution, batch norm and pooling writes one map; skips, `none` and sums write
    none.

    Args:
        mask: [6, 5], which operations run.
        channels: C.
        cells: N.
        image_shape: (height, width, channels).
        images: n.
    """
    active = np.asarray(mask) > 0
    maps = {name: RELU_CONV_NORM for name in PARAMETRIC} | {"avg_pool_3x3": 1}
    in_cell = sum(maps.get(name, 0) * active[:, i].sum() for i, name in enumerate(OPERATIONS))
    area, total = image_shape[0] * image_shape[1], 0.0
    for stage in range(STAGES):
        plane, width = area / 4**stage, channels * 2**stage
        total += cells * in_cell * plane * width
        if stage:
            # ReLU at the size before, then conv, norm, ReLU, conv, norm, shortcut; its pool.
            total += 4 * plane * width / 2 + 6 * plane * width + plane * width / 2
        total += 2 * plane * width if stage in (0, STAGES - 1) else 0  # stem; norm and ReLU of head
    return int(4 * images * total)


def temporary_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the peak temporary bytes of a compiled program, without arguments and results."""
    analysis: Any = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return int(analysis.temp_size_in_bytes)


def memory_rows(case: Case) -> list[dict[str, Any]]:
    """Lists the temporary memory of programs beside the activations of cell and full supernet."""
    space, size = case.space, case.images.shape
    gated = (case.variables, case.gates, case.images)
    module = space.specialise(case.arch)
    network = (space.extract(case.variables, case.arch), case.images)
    step, arguments = module_train_step(module, *network)
    programs = {
        ("gated", "forward"): temporary_bytes(partial(_forward, space), *gated),
        ("gated", "train_step"): temporary_bytes(partial(train_step, space), *gated),
        ("gated", "one_backward"): temporary_bytes(ntk(space, "one_backward", "frozen"), *gated),
        ("module", "forward"): temporary_bytes(partial(_module_forward, module), *network),
        ("module", "train_step"): temporary_bytes(step, *arguments),
        ("module", "one_backward"): temporary_bytes(partial(_module_ntk, module), *network),
    }
    sizes = partial(
        activation_bytes,
        channels=case.channels,
        cells=case.cells,
        image_shape=space.image_shape,
        images=size[0],
    )
    masks = {"cell": case.gates, "supernet": np.ones((len(space.choices), max(space.choices)))}
    return [
        {
            "network": network,
            "program": f"{name}, {kind}",
            "temporary MB": temporary / 1e6,
            "activations MB": sizes(mask) / 1e6,
            "to activations": temporary / sizes(mask),
            "to forward": temporary / programs[kind, "forward"],
        }
        for network, mask in masks.items()
        for (kind, name), temporary in programs.items()
        if network == "cell" or kind == "gated"
    ]


def _forward(space: Any, variables: Any, gates: Any, images: Any) -> Any:
    with nn.intercept_methods(batch_norm_rule("frozen")):
        return space.apply(variables, gates, images)[0]


def _module_forward(module: Any, variables: Any, images: Any) -> Any:
    with nn.intercept_methods(batch_norm_rule("frozen")):
        return module.apply(variables, images, train=True)


def _module_ntk(module: Any, variables: Any, images: Any) -> Any:
    network = from_module(module, variables, train=True)
    return empirical_ntks(network, images, (), NTKOptions("one_backward"))
