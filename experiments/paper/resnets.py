"""Evolution on ResNets as Zen-NAS and the paper's Table 5 run it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from saboc_jax.spaces import make_space
from saboc_jax.spaces.resnet import encoding
from saboc_jax.types import SearchSpace

SLOTS = 16  # 18 layers at most, two of which are stem and tail


def build_space(
    dataset: Any, max_width: int, init: str, shortcut: bool = True, pad_widths: bool = True
) -> SearchSpace:
    """Makes the space for a dataset's images."""
    return make_space(
        "resnet",
        slots=SLOTS,
        max_width=max_width,
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        init=init,
        shortcut=shortcut,
        pad_widths=pad_widths,
    )


def zen_budget(
    space: SearchSpace, max_params: float = 1e6, max_layers: int = 18
) -> Callable[[Any], bool]:
    """Returns whether a mask is within Zen-NAS's budget, by its counting (decision D18)."""

    def allows(mask: Any) -> bool:
        size = size_of(space, np.asarray(mask).argmax(1))
        return size.params <= max_params and size.depth <= max_layers

    return allows


def size_of(space: SearchSpace, arch: Any) -> Any:
    """Returns parameters, multiply-accumulates and layers by Zen-NAS's counting."""
    return encoding.zen_size(encoding.decode(arch), space.image_shape, space.num_classes)
