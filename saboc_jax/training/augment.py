"""Training batches in NumPy: order and augmentation are pure functions of (seed, epoch).

There is no state between batches, so a killed run draws the same images in the same order when
it resumes. Images are normalised before they are augmented.

Deviation: crops and cutout fill with 0 in normalised pixels (the mean colour); crops in the
papers' codes fill with black, because torchvision pads before it normalises.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Augmentation(NamedTuple):
    """Augmentation of training images; zeros and False do nothing.

    Attributes:
        crop_padding: pixels padded on each side before a random crop of the original size.
        flip: mirror left and right with probability 1/2.
        cutout: side of the blanked square (DeVries and Taylor, 2017).
        mixup: alpha of the Beta distribution of mixing weights (Zhang et al., 2018).
        label_smoothing: weight of the uniform distribution in the targets.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    mixup: float = 0.0
    label_smoothing: float = 0.0


def generator(seed: int, epoch: int, *more: int) -> np.random.Generator:
    """Returns a generator for one purpose, the same on every machine."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, *more])))


def order(seed: int, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    """Returns the order of one epoch: a permutation of `size` positions."""
    return generator(seed, epoch).permutation(size)


def random_crop(
    rng: np.random.Generator, images: Float[np.ndarray, "n h w c"], padding: int
) -> Float[np.ndarray, "n h w c"]:
    """Pads with zeros on every side and crops each image to its size at a random place."""
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # [n, 1] each, drawn together.
    top, left = np.split(rng.integers(0, 2 * padding + 1, (2 * n, 1)), 2)
    rows, columns = top + np.arange(height), left + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_flip(
    rng: np.random.Generator, images: Float[np.ndarray, "n h w c"]
) -> Float[np.ndarray, "n h w c"]:
    """Mirrors each image left and right with probability 1/2."""
    mirror = rng.random(len(images)) < 0.5
    return np.where(mirror[:, None, None, None], images[:, :, ::-1], images)


def cutout(
    rng: np.random.Generator, images: Float[np.ndarray, "n h w c"], size: int
) -> Float[np.ndarray, "n h w c"]:
    """Blanks a square with its centre anywhere in the image; the border may cut it."""
    n, height, width, _ = images.shape
    inside = []
    for length in (height, width):
        first = rng.integers(0, length, (n, 1)) - size // 2
        inside.append((np.arange(length) >= first) & (np.arange(length) < first + size))
    return np.where((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0, images)


def smooth_one_hot(
    labels: Int[np.ndarray, " n"], num_classes: int, smoothing: float = 0.0
) -> Float[np.ndarray, "n classes"]:
    """Returns (1 - smoothing) * one-hot + smoothing / classes."""
    eye = np.eye(num_classes, dtype=np.float32)[labels]
    return ((1 - smoothing) * eye + smoothing / num_classes).astype(np.float32)


def augment(
    rng: np.random.Generator,
    images: Float[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    how: Augmentation,
) -> tuple[Float[np.ndarray, "n h w c"], Float[np.ndarray, "n classes"]]:
    """Augments one batch.

    Args:
        rng: consumed.
        images: [n, h, w, c] normalised images.
        labels: [n] in [0, num_classes).
        num_classes: width of the targets.
        how: the augmentation.

    Returns:
        float32 images [n, h, w, c] and targets [n, classes]; rows of targets sum to one.
    """
    if how.crop_padding:
        images = random_crop(rng, images, how.crop_padding)
    if how.flip:
        images = random_flip(rng, images)
    if how.cutout:
        images = cutout(rng, images, how.cutout)
    targets = smooth_one_hot(labels, num_classes, how.label_smoothing)
    if how.mixup:
        weight, partner = rng.beta(how.mixup, how.mixup), rng.permutation(len(images))
        images = weight * images + (1 - weight) * images[partner]
        targets = weight * targets + (1 - weight) * targets[partner]
    return images.astype(np.float32), targets.astype(np.float32)


def epoch_batches(
    seed: int,
    epoch: int,
    images: Float[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    batch_size: int,
    how: Augmentation,
) -> Iterator[tuple[Float[np.ndarray, "b h w c"], Float[np.ndarray, "b classes"]]]:
    """Yields the batches of one epoch; drops the last examples if they do not fill a batch."""
    positions = order(seed, epoch, len(images))
    for number in range(len(images) // batch_size):
        chosen = positions[number * batch_size : (number + 1) * batch_size]
        rng = generator(seed, epoch, number + 1)
        yield augment(rng, images[chosen], labels[chosen], num_classes, how)
