"""Data sets from what others keep: npz files, folders, Hugging Face's data sets, loaders.

Nothing here imports the library that a data set comes from: columns, tensors and pictures are
read by what they offer.
"""

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from saboc_jax.data import own
from saboc_jax.data.folders import Pictures, Size, as_pixels, folder_splits, size_of
from saboc_jax.data.sources import Dataset
from saboc_jax.types import PRNGKey

TEST_NAMES = ("test", "validation", "valid", "val")
ARRAYS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("images", "labels"),
)
"""Names of arrays in an npz file: ours, those of Keras, and those of a file without a split."""


def from_npz(path: str | os.PathLike[str], **options: Any) -> Dataset:
    """Returns the data set of an npz file.

    Args:
        path: holds train_images, train_labels, test_images and test_labels; or images and labels,
            a share of which is held out; and class_names, if it has any. Names as Keras uses
            (x_train, ...) are read as well.
        **options: see `from_arrays`.

    Raises:
        ValueError: if the file is damaged, or an array is missing or wrong; names both.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path).expanduser()
    arrays = _read_npz(path)
    names = next((names for names in ARRAYS if set(names) <= set(arrays)), None)
    if names is None:
        raise ValueError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; allowed: "
            f"{', or '.join(', '.join(names) for names in ARRAYS)}"
        )
    if "class_names" in arrays:
        options.setdefault("class_names", tuple(map(str, arrays["class_names"])))
    try:
        return own.from_arrays(*(arrays[each] for each in names), name=path.stem, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        # We open the file because NumPy would leave a damaged file open.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not an npz file, or damaged: {error}") from error


def from_folder(
    path: str | os.PathLike[str],
    size: Size | None = None,
    *,
    test_share: float = 0.2,
    key: PRNGKey | None = None,
    channels: int = 3,
    normalise: bool = True,
    name: str | None = None,
) -> Dataset:
    """Returns the data set of a folder that has one folder of images for each class.

    Classes are the folders in the order of their names. If there are folders `train` and `test`
    (or `validation`, `valid`, `val`) with the classes in them, they are the two splits. Images
    are decoded when they are read.

    Args:
        path: the folder.
        size: height and width (one number: both) to which images are brought: scaled until they
            cover it, and cut about their centre; None: they have one size already.
        test_share: the share of every class that is held out where the folder has no split.
        key: decides which are held out; None: always the same.
        channels: 3, or 1 for grey.
        normalise: see `from_arrays`; of many images, the statistics are of 10,000 evenly spaced.
        name: of the data set, in results; None: that of the folder.

    Raises:
        ValueError: names the folder or the file, and what is allowed.
        FileNotFoundError: if there is no such folder.
    """
    path = Path(path).expanduser()
    found = folder_splits(path)
    shape = found.check_size(size_of(size), channels)
    train, test = found.train, found.test
    if test is None:
        rows = own.split_rows(found.train.labels, test_share, key)
        train, test = (found.train.at(each) for each in rows)
    readers = [Pictures(each, shape, size is not None) for each in (train, test)]
    classes = own.count_classes(train.labels, test.labels, None, found.class_names)
    name = path.resolve().name if name is None else name
    return own.assemble(name, readers[0], readers[1], shape, classes, found.class_names, normalise)


def from_huggingface(
    dataset: Any,
    size: Size | None = None,
    *,
    image: str | None = None,
    label: str | None = None,
    channels: int = 3,
    max_examples: int | None = None,
    name: str = "huggingface",
    **options: Any,
) -> Dataset:
    """Returns the data set of what `datasets.load_dataset` gives; its images are decoded now.

    Args:
        dataset: a `datasets.Dataset`, or a mapping of splits with `train` and maybe `test` (or
            `validation`).
        size: see `from_folder`.
        image: the column of images; None: the only one whose feature is an image.
        label: the column of labels; None: the only one whose feature is a class label.
        channels: 3, or 1 for grey.
        max_examples: read only the first so many of each split; None: all.
        name: of the data set, in results.
        **options: see `from_arrays`.

    Raises:
        ValueError: names the column or the example, and what is allowed.
    """
    splits = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    if "train" not in splits:
        raise ValueError(f"dataset has the splits {', '.join(splits)}; allowed: one is 'train'")
    features = splits["train"].features
    image = _column(features, "Image", image, "image")
    label = _column(features, "ClassLabel", label, "label")
    names = getattr(features[label], "names", None) or ()
    arrays: list[Any] = []
    for split in ["train", *[each for each in TEST_NAMES if each in splits][:1]]:
        rows = islice(iter(splits[split]), max_examples)
        pairs = ((row[image], row[label]) for row in rows)
        arrays += _stacked(pairs, f"{split} {image}", size_of(size), channels)
    return own.from_arrays(*arrays, class_names=names, name=name, **options)


def _column(features: Mapping[str, Any], kind: str, chosen: str | None, argument: str) -> str:
    """Returns a column by its name or by its kind; ValueError if there is not one."""
    if chosen is not None:
        if chosen not in features:
            raise ValueError(f"{argument}={chosen!r}; allowed: {', '.join(features)}")
        return chosen
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} columns are of kind {kind} among {', '.join(features)}; allowed: one, "
            f"or {argument}=its name"
        )
    return found[0]


def from_iterable(
    train: Iterable[Any],
    test: Iterable[Any] | None = None,
    size: Size | None = None,
    *,
    channels: int = 3,
    max_examples: int | None = None,
    name: str = "iterable",
    **options: Any,
) -> Dataset:
    """Returns the data set of what a loader yields: torch's, grain's, `tf.data`, a generator.

    Args:
        train: yields pairs (image, label) or (images, labels), or mappings with "image" and
            "label" (or "images" and "labels"); arrays, tensors or Pillow images.
        test: the same for the held-out examples; None: a share of `train` is held out.
        size: see `from_folder`; it applies to single images.
        channels: 3, or 1 for grey; of Pillow images.
        max_examples: read only the first so many; needed for loaders that never end.
        name: of the data set, in results.
        **options: see `from_arrays`, e.g. `channels_first=True` for torch's loaders.

    Raises:
        ValueError: names the element, and what is allowed.
    """
    arrays: list[Any] = []
    for field, source in (("train", train), ("test", test)):
        if source is not None:
            pairs = islice(_singles(source, field), max_examples)
            arrays += _stacked(pairs, field, size_of(size), channels)
    return own.from_arrays(*arrays, name=name, **options)


def _singles(source: Iterable[Any], field: str) -> Iterator[tuple[Any, Any]]:
    """Yields single images with their labels."""
    for number, element in enumerate(source):
        images, labels = _pair(element, f"{field}[{number}]")
        if np.ndim(labels) == 0:
            yield images, labels
            continue
        if len(images) != len(labels):
            raise ValueError(
                f"{field}[{number}] has {len(images)} images and {len(labels)} labels; allowed: as "
                "many"
            )
        yield from zip(images, labels, strict=True)


def _pair(element: Any, where: str) -> tuple[Any, Any]:
    """Returns image and label of a pair or a mapping."""
    if isinstance(element, Mapping):
        for names in (("image", "label"), ("images", "labels")):
            if set(names) <= set(element):
                return element[names[0]], element[names[1]]
        what = f"a mapping with {', '.join(map(str, element))}"
    elif isinstance(element, Sequence) and not isinstance(element, str) and len(element) == 2:
        return element[0], element[1]
    else:
        what = f"a {type(element).__name__}"
    allowed = "(image, label), or a mapping with image and label"
    raise ValueError(f"{where} is {what}; allowed: {allowed}")


def _stacked(
    pairs: Iterable[tuple[Any, Any]], field: str, size: tuple[int, int] | None, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [n, ...] images and [n] labels; ValueError if sizes differ."""
    images: list[np.ndarray] = []
    labels: list[Any] = []
    for number, (image, label) in enumerate(pairs):
        pixels = as_pixels(image, size, channels, f"{field}[{number}]")
        if images and pixels.shape != images[0].shape:
            raise ValueError(
                f"{field}[{number}] has shape {pixels.shape}, {field}[0] {images[0].shape}; "
                "allowed: one shape, or size=(height, width) or a number"
            )
        images.append(pixels)
        labels.append(np.asarray(label))
    if not images:
        raise ValueError(f"{field} yields nothing; allowed: one example or more")
    return np.stack(images), np.stack(labels)
