"""A data set's images at another size."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Num

from saboc_jax.data.sources import Dataset, HostLabels, Pixels, Positions, Reader, Split
from saboc_jax.keys import check_whole


def resized(dataset: Dataset, size: int) -> Dataset:
    """Returns a data set whose images are brought to a size when they are fetched.

    Args:
        dataset: of images of any size.
        size: height and width; linear interpolation, over all pixels that shrink to one.

    Raises:
        ValueError: if the size is no whole number from 1.

    Examples:
        >>> from saboc_jax import data
        >>> data.resized(data.load("digits"), 8).image_shape
        (8, 8, 3)
    """
    check_whole("size", size)
    shape = (size, size, dataset.image_shape[2])
    if shape == dataset.image_shape:
        return dataset
    train, test = (
        Split(split.name, shape, split.num_classes, ResizingReader(split.reader, shape))
        for split in (dataset.train, dataset.test)
    )
    return dataset._replace(image_shape=shape, train=train, test=test)


@dataclass(frozen=True)
class ResizingReader:
    """Brings the images of another reader to a shape.

    Attributes:
        reader: reads the images.
        shape: (height, width, channels).
    """

    reader: Reader
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.reader)

    def __call__(self, positions: Positions) -> tuple[Pixels, HostLabels]:
        """Returns the examples at `positions`, images rounded if they are whole numbers."""
        images, labels = self.reader(positions)
        return _at(images, self.shape), labels

    def where(self) -> str:
        """Returns the name of the file or directory, for messages."""
        return self.reader.where()


def _at(images: Num[np.ndarray, "n h w c"], shape: tuple[int, int, int]) -> Pixels:
    at = jax.image.resize(jnp.asarray(images, jnp.float32), (len(images), *shape), "linear")
    values = np.asarray(at)
    if images.dtype == np.uint8:
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return values
