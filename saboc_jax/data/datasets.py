"""Data sets, and the batches for training-free scorers, drawn by PRNG key.

`load` opens a data set, `draw` draws one `Batch` from it, `protocol` draws the batch and targets
of SABoC-NAS. All draws are pure functions of their arguments: the same key gives the same bits
in every run, for JAX versions with the same random bits (JAX 0.5 changed them).
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from saboc_jax.data.registry import DATASETS, available, default_name, load, prepare
from saboc_jax.data.sources import Dataset, Split
from saboc_jax.keys import Purpose, key_for, key_numbered
from saboc_jax.types import Batch, Images, Labels, PRNGKey, Targets

__all__ = [
    "DATASETS",
    "NEEDS_OF_SABOC",
    "Dataset",
    "Protocol",
    "Split",
    "all_examples",
    "available",
    "default_name",
    "draw",
    "fetch",
    "load",
    "one_hot",
    "perturb",
    "prepare",
    "protocol",
    "sample",
]

NEEDS_OF_SABOC = frozenset({"images", "labels", "test_images", "test_labels", "perturbed_images"})


class Protocol(NamedTuple):
    """A batch and its targets.

    Attributes:
        batch: training, test and perturbed test images.
        targets: [n, classes] centred one-hot labels of the training images.
        test_targets: [n, classes] targets of the test images, centred with their own mean.
    """

    batch: Batch
    targets: Targets
    test_targets: Targets


def fetch(dataset: Dataset, split: str, indices: Any) -> tuple[Images, Labels]:
    """Returns the examples at `indices`, in that order.

    Args:
        dataset: a data set opened by `load`.
        split: "train" or "test".
        indices: [n] positions in the split.

    Returns:
        float32 images [n, h, w, c], normalised, and int32 labels [n].

    Raises:
        ValueError: if the split or a position does not exist, or a file is damaged.
    """
    images, labels = _split(dataset, split).fetch(indices)
    return jnp.asarray(_normalise(dataset, images)), jnp.asarray(labels)


def all_examples(dataset: Dataset, split: str) -> tuple[Images, Labels]:
    """Returns a whole split like `fetch`; the training images of CIFAR take 0.6 GB."""
    return fetch(dataset, split, np.arange(len(_split(dataset, split))))


def sample(dataset: Dataset, split: str, key: PRNGKey, size: int) -> tuple[Images, Labels]:
    """Draws `size` different examples; a smaller draw with the same key is a prefix of it.

    Args:
        dataset: a data set opened by `load`.
        split: "train" or "test".
        key: consumed.
        size: number of examples.

    Returns:
        float32 images [size, h, w, c], normalised, and int32 labels [size].

    Raises:
        ValueError: if `size` is not in [1, length of the split].
    """
    return fetch(dataset, split, _draw_positions(dataset, split, key, 0, size))


def draw(
    dataset: Dataset,
    key: PRNGKey,
    size: int = 64,
    *,
    needs: Collection[str] = NEEDS_OF_SABOC,
    noise_std: float = 1e-2,
    more: int = 1,
    num_crops: int = 3000,
    crop_size: int = 3,
) -> Batch:
    """Draws the images for a scorer.

    Every field depends only on the key and its own arguments, not on the other fields drawn.

    Args:
        dataset: a data set opened by `load`.
        key: consumed.
        size: images per batch.
        needs: fields of `Batch` to draw; the others are None. Images and labels are always drawn.
        noise_std: standard deviation of the noise of `perturbed_images`, per normalised pixel.
        more: number of batches in `more_images`. They continue the pass over the training split
            that `images` begins, so no image occurs twice.
        num_crops: number of `crops`.
        crop_size: height and width of `crops`.

    Raises:
        ValueError: if a field is unknown, a number is out of range, or the split has too few
            images.
    """
    _check_draw(dataset, needs, noise_std, more, num_crops, crop_size)
    train, test = key_for(key, Purpose.TRAIN_IMAGES), key_for(key, Purpose.TEST_IMAGES)
    images, labels = sample(dataset, "train", train, size)
    fields: dict[str, Array] = {}
    if not {"test_images", "test_labels", "perturbed_images"}.isdisjoint(needs):
        clean, fields["test_labels"] = sample(dataset, "test", test, size)
        fields["test_images"] = clean
        if "perturbed_images" in needs:
            fields["perturbed_images"] = perturb(key_for(key, Purpose.NOISE), clean, noise_std)
    if not {"more_images", "more_labels"}.isdisjoint(needs):
        positions = _draw_positions(dataset, "train", train, size, (1 + more) * size)
        further, further_labels = fetch(dataset, "train", positions)
        fields["more_images"] = further.reshape(more, size, *dataset.image_shape)
        fields["more_labels"] = further_labels.reshape(more, size)
    if "crops" in needs:
        fields["crops"] = _crops(dataset, key_for(key, Purpose.CROPS), num_crops, crop_size)
    return Batch(images, labels, **{k: field for k, field in fields.items() if k in needs})


def perturb(key: PRNGKey, images: Images, noise_std: float = 1e-2) -> Images:
    """Adds Gaussian noise to every normalised pixel (SABoC-NAS, Eq. 7). `key`: consumed.

    We read 1e-4 in the paper's N(0, 1e-4) as a variance, so the standard deviation is 1e-2.
    """
    leaves, structure = jax.tree.flatten(images)
    if any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ValueError(
            f"inputs of type {[str(leaf.dtype) for leaf in leaves]} cannot be perturbed by "
            "Gaussian noise; allowed: floats, or a Batch with perturbed_images of your own"
        )
    keys = [key] if len(leaves) == 1 else list(jax.random.split(key, len(leaves)))
    noisy = [
        leaf + noise_std * jax.random.normal(own, leaf.shape, leaf.dtype)
        for own, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)  # type: ignore[no-any-return]


def one_hot(labels: Int[Array, " n"], num_classes: int, centre: bool = True) -> Targets:
    """Returns one-hot labels [n, classes]; if centred, every column has mean 0 over the batch."""
    targets = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return targets - targets.mean(0) if centre else targets


def protocol(dataset: Dataset, key: PRNGKey, size: int = 64, noise_std: float = 1e-2) -> Protocol:
    """Draws the images that SABoC-NAS scores with (Sec. 4.1, Eq. 7-10), and centred targets.

    Args:
        dataset: a data set opened by `load`.
        key: consumed.
        size: images per batch.
        noise_std: standard deviation of the perturbation, per normalised pixel.
    """
    batch = draw(dataset, key, size, noise_std=noise_std)
    return Protocol(
        batch,
        one_hot(jnp.asarray(batch.labels), dataset.num_classes),
        one_hot(jnp.asarray(batch.test_labels), dataset.num_classes),
    )


def _split(dataset: Dataset, split: str) -> Split:
    if split not in ("train", "test"):
        raise ValueError(f"no split {split!r} of {dataset.name}; there are train, test")
    return dataset.train if split == "train" else dataset.test


def _normalise(
    dataset: Dataset, pixels: np.ndarray, channels: np.ndarray | slice = slice(None)
) -> Float[np.ndarray, "..."]:
    """Returns (pixel / 255 - mean) / std in float32, for the channels of the last axis.

    Floats have a scale of their own, and are not divided.
    """
    mean, std = (np.array(v, np.float32)[channels] for v in (dataset.mean, dataset.std))
    scaled = pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
    return (scaled - mean) / std


def _draw_positions(
    dataset: Dataset, split: str, key: PRNGKey, start: int, stop: int
) -> Int[np.ndarray, " n"]:
    """Draws positions `start` to `stop` of one random pass over a split."""
    length = len(_split(dataset, split))
    if not start < stop:
        raise ValueError(f"batch size is {stop - start}, must be at least 1")
    if stop > length:
        raise ValueError(
            f"cannot draw {stop} different examples from {dataset.name}/{split}, "
            f"which has {length}; all batches together must be no larger than the split"
        )
    return np.asarray(jax.random.permutation(key, length))[start:stop]


def _check_draw(
    dataset: Dataset,
    needs: Collection[str],
    noise_std: float,
    more: int,
    num_crops: int,
    crop_size: int,
) -> None:
    unknown = sorted(set(needs) - set(Batch._fields))
    if unknown:
        raise ValueError(f"no field {unknown[0]!r} of Batch; there are {', '.join(Batch._fields)}")
    if not 0 <= noise_std < float("inf"):
        raise ValueError(f"noise_std is {noise_std}, must be finite and at least 0")
    for name, value in (("more", more), ("num_crops", num_crops)):
        if value < 1:
            raise ValueError(f"{name} is {value}, must be at least 1")
    largest = min(dataset.image_shape[:2])
    if not 1 <= crop_size <= largest:
        raise ValueError(f"crop_size is {crop_size}, must be in [1, {largest}]")


def _crops(dataset: Dataset, key: PRNGKey, count: int, size: int) -> Float[Array, "r size size 1"]:
    """Draws random crops of one random channel of training images (TE-NAS, Chen et al. 2021).

    Uses different images until the split is used up, then starts another pass over it.
    """
    height, width, num_channels = dataset.image_shape
    length = len(dataset.train)
    passes = [
        np.asarray(jax.random.permutation(key_numbered(key, i), length))
        for i in range(-(-count // length))
    ]
    images, _ = dataset.train.fetch(np.concatenate(passes)[:count])
    limits = np.array([height - size + 1, width - size + 1, num_channels])
    corner = key_for(key, Purpose.CROP_CORNERS)
    top, left, channel = np.asarray(jax.random.randint(corner, (count, 3), 0, limits)).T
    rows = (top[:, None] + np.arange(size))[:, :, None]
    columns = (left[:, None] + np.arange(size))[:, None, :]
    pixels = images[np.arange(count)[:, None, None], rows, columns, channel[:, None, None]]
    return jnp.asarray(_normalise(dataset, pixels, channel[:, None, None])[..., None])
