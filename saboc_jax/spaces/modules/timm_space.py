"""The models of timm as a space: one decision, which model.

Every model has fresh weights by timm's own initialisers, and is made for the size of the images
where its size is fixed. An architecture is the name of a model, as in `timm.list_models()`.
"""

from saboc_jax.spaces.modules.named import model_names, named_space
from saboc_jax.types import SearchSpace


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
    names = model_names("timm")
    return named_space(
        [f"timm:{name}" for name in names],
        num_classes,
        image_shape,
        redraw_zeros=redraw_zeros,
        option_names=names,
        name="timm",
    )
