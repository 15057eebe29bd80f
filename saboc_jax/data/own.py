"""Data sets of one's own arrays: checked, split by class, normalised by their training split.

A fault is one sentence that names the field, what it is, and what is allowed. It is found when
the data set is made, not in the middle of a run.
"""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from saboc_jax.data.sources import ArrayReader, Dataset, HostLabels, Pixels, Reader, Split
from saboc_jax.keys import Purpose, key_for, root_key
from saboc_jax.types import PRNGKey

FEW_CHANNELS = 4  # what a first axis may hold to be taken for channels
MOST_FOR_STATISTICS = 10_000  # training images that mean and deviation are taken from
AT_ONCE = 512  # images whose float64 copies are in memory
FAR_APART = 20  # ratio of the largest pixels of two splits that are on different scales


def from_arrays(
    images: Any,
    labels: Any,
    test_images: Any = None,
    test_labels: Any = None,
    *,
    test_share: float = 0.2,
    key: PRNGKey | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    channels_first: bool | None = None,
    normalise: bool = True,
    name: str = "arrays",
) -> Dataset:
    """Returns a data set of images and labels in memory.

    Args:
        images: [n, height, width, channels] or [n, height, width], uint8, or floats on any scale.
            NumPy and JAX arrays, and what `numpy.asarray` takes.
        labels: [n] integers from 0.
        test_images: held-out images; None: a share of every class of `images` is held out.
        test_labels: their labels.
        test_share: the share of every class that is held out, above 0 and below 1.
        key: decides which are held out; None: always the same.
        num_classes: number of classes; None: the largest label and one, and every label occurs.
        class_names: one for each class, or none.
        channels_first: images are [n, channels, height, width]; None: they are not, and images
            that look so are refused.
        normalise: subtract the mean of each channel of the training images and divide by their
            standard deviation; else pixels stay as they are (of uint8, divided by 255).
        name: of the data set, in results.

    Raises:
        ValueError: names the field, and what is allowed.

    Examples:
        >>> import numpy as np
        >>> import saboc_jax as sj
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
        >>> dataset = sj.data.from_arrays(images, np.arange(20) % 2)
        >>> dataset.num_classes, len(dataset.train), len(dataset.test)
        (2, 16, 4)
    """
    if (test_images is None) != (test_labels is None):
        given = "test_images" if test_labels is None else "test_labels"
        raise ValueError(f"{given} is given alone; allowed: test_images and test_labels, or none")
    train = Examples.checked(images, labels, "images", "labels", channels_first)
    if test_images is None:
        held_out = hold_out(train.labels, test_share, key)
        train, test = train.rows(~held_out), train.rows(held_out)
    else:
        test = Examples.checked(
            test_images, test_labels, "test_images", "test_labels", channels_first
        )
        _check_alike(train.images, test.images)
    classes = count_classes(train.labels, test.labels, num_classes, class_names)
    readers = [ArrayReader(each.images, each.labels, name) for each in (train, test)]
    shape = train.images.shape[1:]
    return assemble(name, readers[0], readers[1], shape, classes, class_names, normalise)


class Examples:
    """Checked images and labels.

    Attributes:
        images: [n, height, width, channels] uint8 or float32.
        labels: [n] integers.
    """

    def __init__(self, images: Pixels, labels: HostLabels) -> None:
        self.images, self.labels = images, labels

    @classmethod
    def checked(
        cls, images: Any, labels: Any, field: str, label_field: str, channels_first: bool | None
    ) -> "Examples":
        """Returns checked examples; `field` and `label_field` name them in messages."""
        pixels = check_images(images, field, channels_first)
        return cls(pixels, check_labels(labels, label_field, len(pixels)))

    def rows(self, chosen: Bool[np.ndarray, " n"]) -> "Examples":
        """Returns the chosen examples."""
        return Examples(self.images[chosen], self.labels[chosen])


def assemble(
    name: str,
    train: Reader,
    test: Reader,
    image_shape: Sequence[int],
    num_classes: int,
    class_names: Sequence[str] = (),
    normalise: bool = True,
    description: str = "Images of your own.",
) -> Dataset:
    """Returns the data set of two readers, with the statistics of its training split."""
    height, width, channels = image_shape
    shape = (height, width, channels)
    mean, std = (0.0,) * channels, (1.0,) * channels
    split = Split(f"{name}/train", shape, num_classes, train)
    if normalise:
        mean, std = channel_statistics(split)
    held_out = Split(f"{name}/test", shape, num_classes, test)
    names = tuple(map(str, class_names))
    return Dataset(name, num_classes, shape, mean, std, names, split, held_out, description)


def hold_out(labels: HostLabels, share: float, key: PRNGKey | None) -> Bool[np.ndarray, " n"]:
    """Marks a share of every class, at least one of two or more examples and never all.

    Raises:
        ValueError: if the share is out of range, or nothing would be held out.
    """
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise ValueError(f"test_share={share!r}; allowed: above 0 and below 1")
    drawn = key_for(root_key(0) if key is None else key, Purpose.HELD_OUT)
    # One permutation for all classes: one for each would be a program for each size of a class.
    order = np.asarray(jax.random.permutation(drawn, len(labels)))
    order = order[np.argsort(labels[order], kind="stable")]
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    numbers = np.clip(np.round(share * counts).astype(int), 1, np.maximum(counts - 1, 0))
    numbers[counts == 1] = 0
    if not numbers.sum():
        raise ValueError(
            f"{len(labels)} examples with one of each class; allowed: two or more of a class, so "
            "that one can be held out, or test images of their own"
        )
    held_out = np.zeros(len(labels), bool)
    for start, number in zip(first, numbers, strict=True):
        held_out[order[start : start + number]] = True
    return held_out


def check_images(images: Any, field: str, channels_first: bool | None) -> Pixels:
    """Returns [n, height, width, channels] uint8 or float32; ValueError names the field."""
    array = _as_array(images, field)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(
            f"{field} of shape {array.shape}; allowed: [n, height, width, channels] or "
            "[n, height, width], with one image or more"
        )
    if channels_first:
        array = np.moveaxis(array, 1, -1)
    elif channels_first is None and array.shape[1] <= FEW_CHANNELS < array.shape[3]:
        raise ValueError(
            f"{field} of shape {array.shape} look like [n, channels, height, width]; allowed: "
            "[n, height, width, channels], or channels_first=True (False: they are not)"
        )
    return np.ascontiguousarray(_check_pixels(array, field))


def _as_array(values: Any, field: str) -> np.ndarray:
    """Returns a NumPy array; ValueError for what is none, such as images of unequal size."""
    try:
        array = np.asarray(values)
    except Exception as error:  # tensors on devices and ragged lists raise their own
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{field} cannot be made an array ({said}); allowed: an array") from error
    if array.dtype.kind not in "biuf" and not array.dtype.name.startswith(("bfloat", "float")):
        raise ValueError(f"{field} are {array.dtype}; allowed: numbers in an array")
    return array


def _check_pixels(array: np.ndarray, field: str) -> Pixels:
    """Returns uint8 or finite float32."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise ValueError(
                f"{field} are {array.dtype} from {low} to {high}; allowed: uint8 from 0 to 255, "
                "or floats on any scale"
            )
        return array.astype(np.uint8)
    if array.dtype.kind == "b":
        raise ValueError(f"{field} are bool; allowed: uint8 from 0 to 255, or floats")
    floats = array.astype(np.float32)
    # Row by row: a mask of all pixels would be a quarter of the images again.
    for number, image in enumerate(floats):
        if not np.isfinite(image).all():
            raise ValueError(
                f"{field}[{number}] holds {image[~np.isfinite(image)][0]}; allowed: finite numbers"
            )
    return floats


def _check_alike(train: Pixels, test: Pixels) -> None:
    """Raises ValueError unless training and test images have one shape, kind and scale."""
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"test_images of shape {test.shape[1:]}, images of shape {train.shape[1:]}; allowed: "
            "one shape"
        )
    if train.dtype != test.dtype:
        raise ValueError(
            f"test_images are {test.dtype}, images are {train.dtype}; allowed: one kind of numbers"
        )
    # Bytes have one scale, whatever they show.
    if train.dtype != np.uint8:
        here, there = (float(np.abs(each).max()) for each in (train, test))
        if max(here, there) > FAR_APART * min(here, there):
            raise ValueError(
                f"test_images reach {there:.4g}, images {here:.4g}; allowed: both on one scale"
            )


def check_labels(labels: Any, field: str, count: int) -> HostLabels:
    """Returns [n] integers that are not negative; ValueError names the field."""
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:  # as Keras and MedMNIST keep them
        array = array[:, 0]
    if array.ndim == 2 and len(array) == count:
        raise ValueError(
            f"{field} of shape {array.shape} look one-hot; allowed: [n] integers, e.g. "
            f"{field}.argmax(1)"
        )
    if array.shape != (count,):
        raise ValueError(f"{field} of shape {array.shape}; allowed: ({count},), one for each image")
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{field} are {array.dtype}; allowed: integers from 0 (of names: "
            "numpy.unique(names, return_inverse=True)[1]; targets of a regression: a Batch with "
            "loss='square')"
        )
    if array.min() < 0:
        at = int(array.argmin())
        raise ValueError(f"{field}[{at}]={array[at]}; allowed: integers from 0")
    return array.astype(np.int64)


def count_classes(
    train: HostLabels, test: HostLabels, num_classes: int | None, class_names: Sequence[str]
) -> int:
    """Returns the number of classes; ValueError if labels, names and number do not fit."""
    found = np.unique(np.concatenate([train, test]))
    largest = int(found[-1])
    number = len(class_names) or None if num_classes is None else num_classes
    if number is None:
        missing = np.setdiff1d(np.arange(largest + 1), found)
        if missing.size:
            raise ValueError(
                f"labels are {len(found)} of 0 to {largest}, and {missing[0]} does not occur; "
                f"allowed: every one, or num_classes={largest + 1} if it is meant"
            )
        number = largest + 1
    number = _whole(number)
    if number < 2 or number <= largest:
        raise ValueError(
            f"num_classes={number} with labels up to {largest}; allowed: "
            f"{max(2, largest + 1)} or more"
        )
    if class_names and len(class_names) != number:
        raise ValueError(f"{len(class_names)} class_names; allowed: {number}, one for each class")
    return number


def _whole(number: Any) -> int:
    try:
        return operator.index(number)
    except TypeError as error:
        raise ValueError(f"num_classes={number!r}; allowed: a whole number") from error


def channel_statistics(train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel; pixels of uint8 are divided by 255.

    They are of the whole split, or of so many images evenly spaced in it that they are read in
    reasonable time. A channel with one value everywhere keeps a deviation of 1.

    Raises:
        ValueError: if all channels have one value everywhere.
    """
    count = min(len(train), MOST_FOR_STATISTICS)
    rows = np.linspace(0, len(train) - 1, count).astype(int)
    centre, total, squares, pixels = np.zeros(1), np.zeros(1), np.zeros(1), 0
    for start in range(0, count, AT_ONCE):
        part = _scaled(train.fetch(rows[start : start + AT_ONCE])[0])
        if not start:
            centre = part.mean(0)  # sums of squares about it do not cancel
        total = total + (part - centre).sum(0)
        squares = squares + ((part - centre) ** 2).sum(0)
        pixels += len(part)
    shift = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - shift**2, 0))
    if not deviation.any():
        raise ValueError(f"all images of {train.name} have one value; allowed: images that vary")
    return tuple((centre + shift).tolist()), tuple(np.where(deviation > 0, deviation, 1).tolist())


def _scaled(images: Pixels) -> Float[np.ndarray, "pixels channels"]:
    values = images.reshape(-1, images.shape[-1]).astype(np.float64)
    return values / 255 if images.dtype == np.uint8 else values


def split_rows(
    labels: HostLabels, share: float, key: PRNGKey | None
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Returns the positions of training and held-out examples, see `hold_out`."""
    held_out = hold_out(labels, share, key)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
