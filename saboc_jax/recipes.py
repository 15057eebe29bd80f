"""Settings of training: the published recipes, and small ones that end in minutes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from saboc_jax.augment import Augmentation


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of a step, over all devices.
        learning_rate: the highest one, after the warm-up.
        final_learning_rate: where the cosine ends.
        warmup_epochs: epochs of linear increase from 0.
        momentum: of SGD with Nesterov's rule.
        weight_decay: times the weights, added to the gradient (of all parameters, as PyTorch's).
        clip: largest global norm of a gradient; 0: not clipped.
        drop_path: probability of dropping a path in the last epoch; rises linearly from 0.
        auxiliary_weight: weight of the auxiliary head's loss, where the module has one.
        channels: C of the trained network.
        cells: N, cells a stage (NAS-Bench-201) or layers (DARTS).
        augmentation: of the training images.
        source: where the settings come from.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    final_learning_rate: float = 0.0
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
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
    source="Dong and Yang (2020), NAS-Bench-201, Table 1: what the benchmark's cells had",
)
"""`python -m experiments.train --recipe=nas_bench_201 --architecture=...`; GPU-days, not run."""

DARTS = Recipe(
    epochs=400,
    batch_size=96,
    learning_rate=0.025,
    weight_decay=3e-4,
    clip=5.0,
    drop_path=0.2,
    auxiliary_weight=0.4,
    channels=36,
    cells=20,
    augmentation=Augmentation(crop_padding=4, flip=True, cutout=16),
    source=(
        "SABoC-NAS trains cells of DARTS for 400 epochs and names no further settings; the rest "
        "is Liu et al. (2019), DARTS, Section 3.2 (which trained for 600)"
    ),
)
"""`python -m experiments.train --recipe=darts --space=darts ...`; GPU-days, not run."""

RESNET = Recipe(
    epochs=1440,
    batch_size=256,
    learning_rate=0.1,
    weight_decay=5e-4,
    augmentation=Augmentation(crop_padding=4, flip=True, mixup=0.2, label_smoothing=0.1),
    source=(
        "Lin et al. (2021), Zen-NAS, settings on CIFAR. Deviation: no random erasing and no "
        "AutoAugment; alpha of mixup and smoothing are the usual ones, not named there"
    ),
)
"""`python -m experiments.train --recipe=resnet --space=resnet ...`; GPU-days, not run."""

QUICK = replace(
    NAS_BENCH_201,
    epochs=5,
    batch_size=64,
    warmup_epochs=1,
    channels=8,
    cells=1,
    source="ours: minutes on one core, to see that a cell learns",
)
"""`python -m experiments.train --recipe=quick --architecture=...`."""

TINY = replace(QUICK, epochs=2, channels=4, augmentation=Augmentation(), source="ours: seconds")
"""`python -m experiments.train --recipe=tiny --dataset=digits --architecture=...`."""

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "nas_bench_201": NAS_BENCH_201,
        "darts": DARTS,
        "resnet": RESNET,
        "quick": QUICK,
        "tiny": TINY,
    }
)
