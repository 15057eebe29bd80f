"""Training of architectures of a space, shared by the binaries and studies."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from saboc_jax import data
from saboc_jax.data import Dataset
from saboc_jax.evaluation.identity import computing, current_versions
from saboc_jax.layers.fingerprints import digest
from saboc_jax.spaces import known_options, make_space
from saboc_jax.spaces.darts.trained import trained
from saboc_jax.training.recipes import RECIPES, Recipe
from saboc_jax.training.run import first_examples, run
from saboc_jax.training.train import Examples, make_trainer
from saboc_jax.types import Architecture, SearchSpace

from . import common, workdir

FINGERPRINT = 64  # training images that tell one folder of data from another
MIN_DARTS_CELLS = 3  # cells at one and two thirds are reduction cells


def identity(dataset: Dataset, settings: Recipe, *ignored: str) -> dict[str, Any]:
    """What identifies a training: its flags, and what they stand for where they say it not."""
    stands_for = {
        "dataset": dataset.name,
        "channels": settings.channels,
        "cells": settings.cells,
        "epochs": settings.epochs,
        "train_batch_size": settings.batch_size,
        "drawn": digest(
            *data.fetch(dataset, "train", np.arange(min(FINGERPRINT, len(dataset.train))))
        ),
        "computing": computing(),
        "versions": current_versions(),
    }
    return workdir.flag_values(*ignored) | stands_for


def recipe(name: str, epochs: int | None = None, batch_size: int | None = None) -> Recipe:
    """A recipe with the flags' changes; --channels and --cells count where they are given."""
    found = RECIPES[name]
    changes: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "channels": common.CHANNELS.value if common.CHANNELS.present else None,
        "cells": common.CELLS.value if common.CELLS.present else None,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    warmup = min(found.warmup_epochs, changes.get("epochs", found.epochs))
    return replace(found, warmup_epochs=warmup, **changes)


def space(dataset: Dataset, settings: Recipe, name: str) -> SearchSpace:
    """The space with the recipe's network; ResNets bring their own widths and depth.

    Those of DARTS have their auxiliary head on images of 32 x 32 pixels only.

    Raises:
        ValueError: if so few cells of DARTS are all reduction cells.
    """
    if name.startswith("darts"):
        if settings.cells < MIN_DARTS_CELLS:
            raise ValueError(
                f"cells={settings.cells}; allowed: {MIN_DARTS_CELLS} or more in {name!r}, for "
                "fewer are reduction cells only (--recipe=darts_quick, or --cells)"
            )
        scored = make_space(name, num_classes=dataset.num_classes, image_shape=dataset.image_shape)
        auxiliary = settings.auxiliary_weight > 0 and dataset.image_shape[:2] == (32, 32)
        return trained(scored, settings.channels, settings.cells, auxiliary)
    return make_space(
        name,
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        **known_options(name, channels=settings.channels, num_cells=settings.cells),
    )


def command(kind: str, dataset: str, run: str, text: str) -> str:
    """The command that trains an architecture as its paper does.

    Args:
        kind: of the space, and of the recipe.
        dataset: that it was searched on; CIFAR-10 in place of images that are not CIFAR's.
        run: what distinguishes its folder.
        text: the architecture.
    """
    dataset = dataset if dataset in ("cifar10", "cifar100") else "cifar10"
    words = ["saboc", "train", f"--space={kind}", f"--recipe={kind}"]
    folder = f"--workdir=runs/{kind}-{run}-{dataset}"
    return shlex.join([*words, f"--dataset={dataset}", folder, f"--architecture={text}"])


def shrunk(given: Examples, factor: int) -> Examples:
    """Images averaged over squares of a side of `factor`, which must divide theirs."""
    n, height, width, channels = given.images.shape
    if height % factor or width % factor:
        raise ValueError(f"factor={factor}; allowed: divisors of {height} and {width}")
    shape = (n, height // factor, factor, width // factor, factor, channels)
    return Examples(given.images.reshape(shape).mean((2, 4)), given.labels)


def train(
    of: SearchSpace,
    arch: Architecture,
    dataset: Dataset,
    settings: Recipe,
    seed: int,
    folder: Path,
    count: int | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_batch: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains one architecture on the first `count` training images; gives its epochs' metrics."""
    train_examples, held_out = (
        first_examples(dataset, "train", count),
        first_examples(dataset, "test"),
    )
    return train_on(of, arch, train_examples, held_out, settings, seed, folder, on_epoch, on_batch)


def train_on(
    of: SearchSpace,
    arch: Architecture,
    train_examples: Examples,
    held_out: Examples,
    settings: Recipe,
    seed: int,
    folder: Path,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_batch: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """The same on examples in memory, for studies that train many architectures."""
    trainer = make_trainer(
        *(of.specialise(arch), train_examples, of.num_classes, settings, seed),
        on_batch=on_batch,
        call=of.networks.call(),
    )
    return run(trainer, held_out, settings.epochs, folder, on_epoch)[1]
