"""The models of timm as a space: one decision, which model.

Every model has fresh weights by timm's own initialisers, and is made for the size of the images
where its size is fixed. An architecture is the name of a model, as in `timm.list_models()`.

What was trained, and published, is a network of ImageNet's 1,000 classes at an image size of its
own, 224 pixels or more: costs and structures (`params`, `macs`, `paths`, `activations`, those of
`consensus`) are of that network, whatever the size of the images that it is scored on.
"""

from functools import lru_cache, partial
from typing import Any

import numpy as np

from saboc_jax.extras import needed
from saboc_jax.layers.structures import structure_of
from saboc_jax.spaces.modules.named import model_names, named_space
from saboc_jax.types import Cost, Costs, SearchSpace, Structure

CLASSES = 1000  # of ImageNet
_ALONE = np.zeros(1, np.int32)


def timm(
    *,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (64, 64, 3),
    init: str | None = None,
    redraw_zeros: bool = False,
) -> SearchSpace:
    """Makes the space of timm's models, which are made when they are scored.

    Args:
        num_classes: width of the outputs.
        image_shape: (height, width, channels) of one image; models for 224 pixels reduce 32 times.
        init: not read: models draw their weights by their own initialisers.
        redraw_zeros: draw weights anew that a model starts at zero (`redraw.without_zeros`).

    Raises:
        MissingExtraError: if timm is not installed.
    """
    names = tuple(model_names("timm"))
    space = named_space(
        [f"timm:{name}" for name in names],
        num_classes,
        image_shape,
        redraw_zeros=redraw_zeros,
        option_names=names,
        name="timm",
    )
    costs = Costs(partial(_published_cost, names), structure=partial(_published_structure, names))
    return space._replace(costs=costs)


@lru_cache(2)  # networks are large
def _published(name: str) -> SearchSpace:
    """Returns the space of one model as it was trained."""
    with needed("timm", "A network of timm"):
        import timm
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    channels, height, width = getattr(config, "input_size", None) or (3, 224, 224)
    return named_space([f"timm:{name}"], CLASSES, (height, width, channels))


def _published_cost(names: tuple[str, ...], arch: Any) -> Cost:
    return _published(names[int(arch[0])]).cost(_ALONE)


def _published_structure(names: tuple[str, ...], arch: Any) -> Structure:
    return structure_of(_published(names[int(arch[0])]), _ALONE)
