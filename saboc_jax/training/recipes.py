"""Training recipes: the published ones, and small ones that run in minutes.

The published numbers come from the configuration or script that `Recipe.source` names together
with its paper. `Recipe.source` also lists the deviations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from saboc_jax.training.augment import Augmentation


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step, over all devices.
        learning_rate: the largest rate, after the warm-up.
        final_learning_rate: the rate at the end of the cosine.
        warmup_epochs: epochs of linear increase from 0.
        momentum: momentum of SGD.
        nesterov: True: Nesterov momentum; False: plain momentum.
        weight_decay: factor of the weights that are added to the gradient.
        decay_kernels_only: no weight decay of batch norms and biases; False: decay all
            parameters, PyTorch's default.
        clip: largest global norm of a gradient; 0: no clipping.
        drop_path: final probability of dropping a path; epoch e (from 0) uses e / epochs of it.
        auxiliary_weight: weight of the auxiliary head's loss, if the module has one.
        channels: C of the trained network.
        cells: N, cells per stage (NAS-Bench-201), or all cells (DARTS).
        augmentation: augmentation of the training images.
        source: origin of the settings.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    final_learning_rate: float = 0.0
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    decay_kernels_only: bool = False
    clip: float = 0.0
    drop_path: float = 0.0
    auxiliary_weight: float = 0.0
    channels: int = 16
    cells: int = 5
    augmentation: Augmentation = field(default_factory=Augmentation)
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "channels", "cells"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; allowed: at least 1")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path}; allowed: 0 <= drop_path < 1")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs}; allowed: 0 to {self.epochs}")


_CROP_FLIP = Augmentation(crop_padding=4, flip=True)

NAS_BENCH_201 = Recipe(
    epochs=200,
    batch_size=256,
    learning_rate=0.1,
    weight_decay=5e-4,
    channels=16,
    cells=5,
    augmentation=_CROP_FLIP,
    source=(
        "Dong and Yang (2020), NAS-Bench-201, Section 2.3; the numbers are those of "
        "configs/nas-benchmark/hyper-opts/200E.config of D-X-Y/AutoDL-Projects. Its "
        "ImageNet16-120 images were padded by 2 pixels, not 4"
    ),
)
"""`saboc train --recipe=nas_bench_201 --architecture=...`; GPU-days, not run."""

DARTS = Recipe(
    epochs=400,
    batch_size=96,
    learning_rate=0.025,
    nesterov=False,
    weight_decay=3e-4,
    clip=5.0,
    drop_path=0.2,
    auxiliary_weight=0.4,
    channels=36,
    cells=20,
    augmentation=Augmentation(crop_padding=4, flip=True, cutout=16),
    source=(
        "SABoC-NAS, Section 5.3: cells of DARTS are trained for 400 epochs; it names no further "
        "settings. The rest is Liu et al. (2019), DARTS: defaults of cnn/train.py of quark0/darts "
        "with --auxiliary --cutout, which trains for 600. Deviation: the rate changes every step, "
        "there every epoch; a rest that fills no batch is left out"
    ),
)
"""`saboc train --recipe=darts --space=darts ...`; GPU-days, not run."""

RESNET = Recipe(
    epochs=1440,
    batch_size=64,
    learning_rate=0.025,
    warmup_epochs=5,
    weight_decay=5e-4,
    decay_kernels_only=True,
    augmentation=Augmentation(crop_padding=4, flip=True, mixup=0.2, label_smoothing=0.1),
    source=(
        "Lin et al. (2021), Zen-NAS: scripts/Zen_NAS_cifar_params1M.sh of idstcv/ZenNAS (0.1 for "
        "256 images, so 0.025 for its 64), with mixup and smoothing of its "
        "train_image_classification.py. SABoC-NAS names no settings for ResNets. Deviation: no "
        "random erasing and no AutoAugment; running statistics move as in our other networks, "
        "there with momentum 0.01"
    ),
)
"""`saboc train --recipe=resnet --space=resnet ...`; GPU-days, not run."""

QUICK = replace(
    NAS_BENCH_201,
    epochs=5,
    batch_size=64,
    warmup_epochs=1,
    channels=8,
    cells=1,
    source="ours: minutes on one core, to see that a cell learns",
)
"""`saboc train --recipe=quick --architecture=...`."""

DARTS_QUICK = replace(
    DARTS,
    epochs=5,
    batch_size=64,
    warmup_epochs=1,
    channels=8,
    cells=4,
    source="ours: minutes on a CPU; two normal and two reduction cells, the rest as `darts`",
)
"""`saboc train --recipe=darts_quick --space=darts --architecture=...`."""

RESNET_QUICK = replace(
    RESNET, epochs=5, warmup_epochs=1, source="ours: minutes on a CPU; the rest as `resnet`"
)
"""`saboc train --recipe=resnet_quick --space=resnet --architecture=...`."""

TINY = replace(QUICK, epochs=2, channels=4, augmentation=Augmentation(), source="ours: seconds")
"""`saboc train --recipe=tiny --dataset=digits --architecture=...`."""

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "nas_bench_201": NAS_BENCH_201,
        "darts": DARTS,
        "resnet": RESNET,
        "quick": QUICK,
        "darts_quick": DARTS_QUICK,
        "resnet_quick": RESNET_QUICK,
        "tiny": TINY,
    }
)


def find_recipe(recipe: Recipe | str) -> Recipe:
    """Returns the recipe, or that of the name; raises ValueError if there is none of that name."""
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise ValueError(f"recipe={recipe!r}; allowed: {', '.join(RECIPES)}, or a Recipe")
    return RECIPES[recipe]
