"""Splits with random access, and single-file sources: npz files and this package's digits.

A `Split` reads the examples of a source by position and decodes only those. Any defect of a file
raises a ValueError that names the file.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, UInt8

RawImages = UInt8[np.ndarray, "n height width channels"]
Pixels = RawImages | Float32[np.ndarray, "n height width channels"]
"""Bytes from 0 to 255, or floats on a scale of their own."""
HostLabels = Int[np.ndarray, " n"]
Positions = Int[np.ndarray, " n"]
DIGITS = Path(__file__).with_name("digits.npz")
"""uint8 images [1797, 8, 8] with values 0 to 16, labels [1797], and a text with their source."""


@runtime_checkable
class Reader(Protocol):
    """Reads examples by position."""

    def __len__(self) -> int: ...

    def __call__(self, positions: Positions) -> tuple[Pixels, HostLabels]:
        """Returns images [n, h, w, c] and labels [n] in the order of `positions`."""
        ...

    def where(self) -> str:
        """Returns the name of the file or directory, for messages."""
        ...


@dataclass(frozen=True)
class Split:
    """One split of a data set with random access; decodes only the requested examples.

    Attributes:
        name: e.g. "cifar10/train".
        image_shape: (height, width, channels) of every image.
        num_classes: every label must be in [0, num_classes).
        reader: reads the examples.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    reader: Reader

    def __len__(self) -> int:
        return len(self.reader)

    def fetch(self, indices: Any) -> tuple[Pixels, HostLabels]:
        """Returns the examples at `indices`, in that order.

        Args:
            indices: [n] positions in [0, len(self)); repeats are allowed.

        Returns:
            uint8 or float32 images [n, h, w, c] and int32 labels [n].

        Raises:
            ValueError: if a position or label is out of range, a file cannot be read, or an
                image has another shape.
        """
        positions = self._positions(indices)
        images, labels = self.reader(positions)
        if images.shape[1:] != self.image_shape or images.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"{self.reader.where()}: images of {self.name} are {images.dtype} "
                f"{images.shape[1:]}, must be uint8 or float32 {self.image_shape}"
            )
        bad = labels[(labels < 0) | (labels >= self.num_classes)]
        if bad.size:
            raise ValueError(
                f"{self.reader.where()}: label {bad[0]} in {self.name}, "
                f"must be in [0, {self.num_classes})"
            )
        return images, labels.astype(np.int32)

    def _positions(self, indices: Any) -> Positions:
        positions = np.asarray(indices)
        if positions.ndim != 1 or not (positions.size == 0 or positions.dtype.kind in "iu"):
            raise ValueError(
                f"indices must be one-dimensional integers, got {positions.dtype} "
                f"of shape {positions.shape}"
            )
        bad = positions[(positions < 0) | (positions >= len(self))]
        if bad.size:
            raise ValueError(f"index {bad[0]} of {self.name}, must be in [0, {len(self)})")
        return positions.astype(np.int64)


class Dataset(NamedTuple):
    """An image classification data set.

    Attributes:
        name: the name used by `--dataset`, or that of your own.
        num_classes: number of classes.
        image_shape: (height, width, channels).
        mean: mean of each channel, of pixels in [0, 1] where images are uint8, else as they are.
        std: standard deviation of each channel, likewise.
        class_names: one per class, or empty.
        train: the training split.
        test: the held-out split.
        description: content, source and licence.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    train: Split
    test: Split
    description: str


class Source(NamedTuple):
    """The two readers and the class names of a source (no names: empty)."""

    train: Reader
    test: Reader
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class ArrayReader:
    """Reads examples from arrays in memory."""

    images: Pixels
    labels: HostLabels
    origin: str

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, positions: Positions) -> tuple[Pixels, HostLabels]:
        """Returns the examples at `positions`."""
        return self.images[positions], self.labels[positions]

    def where(self) -> str:
        """Returns the origin of the arrays."""
        return self.origin


def read_digits() -> Source:
    """Reads the 1,797 digits of this package, 8x8 grey, as 32x32x3.

    Enlarges them four times by linear interpolation in integers, so that every machine gets the
    same bits. The last fifth of every class, in the order of the file, is held out.
    """
    with DIGITS.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
        grey, labels = file["images"].astype(np.int64), file["labels"].astype(np.int64)
    images = _enlarge(grey)
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        held_out[members[len(members) - len(members) // 5 :]] = True
    train, test = (
        ArrayReader(images[rows], labels[rows], str(DIGITS)) for rows in (~held_out, held_out)
    )
    return Source(train, test, tuple(str(digit) for digit in range(10)))


def _enlarge(grey: Int[np.ndarray, "n 8 8"]) -> RawImages:
    """Interpolates linearly to 32x32 between pixel centres; 16 becomes 255; three channels."""
    # Output pixel i is at (2 i + 1) / 8 - 1 / 2 input pixels: eighths, so weights are integers.
    eighths = np.clip(2 * np.arange(32) - 3, 0, 56)
    low = np.minimum(eighths // 8, 6)
    weights = np.zeros((32, 8), np.int64)
    weights[np.arange(32), low] = 8 - (eighths - 8 * low)
    weights[np.arange(32), low + 1] = eighths - 8 * low
    scaled = weights @ grey @ weights.T * 255
    full = 16 * 64
    pixels = ((2 * scaled + full) // (2 * full)).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=-1)


def read_npz(path: Path, image_shape: tuple[int, int, int], num_classes: int) -> Source:
    """Reads train_images, train_labels, test_images, test_labels and class_names from one npz.

    Raises:
        ValueError: if the file is damaged, or an array is missing or has another shape.
    """
    names = ("train_images", "train_labels", "test_images", "test_labels", "class_names")
    try:
        # We open the file because NumPy would leave a damaged file open.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names}
    except KeyError as error:
        raise ValueError(f"{path} lacks an array; it must hold {', '.join(names)}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}") from error
    if len(arrays["class_names"]) != num_classes:
        raise ValueError(f"{path}: {len(arrays['class_names'])} class names, not {num_classes}")
    train, test = (_npz_split(path, arrays, split, image_shape) for split in ("train", "test"))
    return Source(train, test, tuple(str(name) for name in arrays["class_names"]))


def _npz_split(
    path: Path, arrays: dict[str, np.ndarray], split: str, image_shape: tuple[int, int, int]
) -> ArrayReader:
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if images.dtype != np.uint8 or images.shape != (len(images), *image_shape):
        raise ValueError(
            f"{path}: {split}_images is {images.dtype} {images.shape}, "
            f"must be uint8 (n, {', '.join(map(str, image_shape))})"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise ValueError(
            f"{path}: {split}_labels is {labels.dtype} {labels.shape}, "
            f"must be integers ({len(images)},)"
        )
    return ArrayReader(images, labels.astype(np.int64), str(path))
