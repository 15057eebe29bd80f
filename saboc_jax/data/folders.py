"""Pictures in folders, one folder a class, decoded by Pillow when they are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from saboc_jax.data.sources import HostLabels, Positions, RawImages

Size = int | tuple[int, int]
MODES = {1: "L", 3: "RGB"}
TURNED = (5, 6, 7, 8)  # values of EXIF's orientation that swap height and width
ORIENTATION = 0x0112
TEST_FOLDERS = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class Files:
    """Files with their labels."""

    paths: tuple[Path, ...]
    labels: HostLabels

    def at(self, rows: Positions) -> "Files":
        """Returns the files at these positions."""
        return Files(tuple(self.paths[row] for row in rows), self.labels[rows])


@dataclass(frozen=True)
class Folder:
    """A folder of classes: its files, those of its test split if it has one, and its classes."""

    path: Path
    train: Files
    test: Files | None
    class_names: tuple[str, ...]

    def check_size(self, size: tuple[int, int] | None, channels: int) -> tuple[int, int, int]:
        """Returns the shape of the images; ValueError if their sizes differ and none is given."""
        if channels not in MODES:
            raise ValueError(f"channels={channels!r}; allowed: {', '.join(map(str, MODES))}")
        if size is not None:
            return (*size, channels)
        files = (*self.train.paths, *(self.test.paths if self.test else ()))
        first = _height_and_width(files[0])
        for path in files[1:]:
            other = _height_and_width(path)
            if other != first:
                raise ValueError(
                    f"{path} is {other[0]} x {other[1]}, {files[0]} is {first[0]} x {first[1]}; "
                    "allowed: images of one size, or size=(height, width) or a number "
                    "(--resize)"
                )
        return (*first, channels)


@dataclass(frozen=True)
class Pictures:
    """Reads pictures by position, see `saboc_jax.data.sources.Reader`.

    Attributes:
        files: the files of a split.
        image_shape: (height, width, channels) of what is read.
        resized: bring the pictures to that size; else they have it.
    """

    files: Files
    image_shape: tuple[int, int, int]
    resized: bool

    def __len__(self) -> int:
        return len(self.files.paths)

    def __call__(self, positions: Positions) -> tuple[RawImages, HostLabels]:
        """Decodes the pictures at `positions`."""
        images = np.empty((len(positions), *self.image_shape), np.uint8)
        for place, row in enumerate(positions):
            images[place] = self._decoded(self.files.paths[row])
        return images, self.files.labels[positions]

    def _decoded(self, path: Path) -> np.ndarray:
        height, width, channels = self.image_shape
        try:
            with Image.open(path) as picture:
                return as_pixels(picture, (height, width) if self.resized else None, channels, "")
        except Exception as error:  # decoders raise their own
            raise ValueError(f"{path} cannot be read as an image: {error}") from error

    def where(self) -> str:
        """Returns the folder of the first class."""
        return str(self.files.paths[0].parent.parent) if self.files.paths else "no folder"


def size_of(size: Any) -> tuple[int, int] | None:
    """Returns (height, width) of a number or a pair; ValueError for anything else."""
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size) if np.ndim(size) == 1 else ()
    if len(pair) != 2 or not all(isinstance(n, int) and n >= 1 for n in pair):
        raise ValueError(f"size={size!r}; allowed: a whole number from 1, or (height, width)")
    return pair[0], pair[1]


def as_pixels(image: Any, size: tuple[int, int] | None, channels: int, where: str) -> np.ndarray:
    """Returns an image as an array; a Pillow image, or an array that shall have another size."""
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if size is None or array.shape[:2] == size:
            return array
        if array.dtype != np.uint8 or array.ndim not in (2, 3):
            raise ValueError(
                f"{where} is {array.dtype} of shape {array.shape}; allowed with size={size}: uint8 "
                "[height, width, channels]"
            )
        image, channels = Image.fromarray(array), array.shape[2] if array.ndim == 3 else 1
    turned = ImageOps.exif_transpose(image).convert(MODES[channels])
    if size is not None:
        turned = ImageOps.fit(turned, size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(turned)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def folder_splits(path: Path) -> Folder:
    """Returns the files of a folder of classes, or of its folders `train` and `test`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a class has no image, or the splits have different classes.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}")
    test = next((path / name for name in TEST_FOLDERS if (path / name).is_dir()), None)
    if test is None or not (path / "train").is_dir():
        names, files = _classes(path)
        return Folder(path, files, None, names)
    (names, files), (test_names, test_files) = _classes(path / "train"), _classes(test)
    if names != test_names:
        differing = sorted(set(names) ^ set(test_names))
        raise ValueError(
            f"{path}: the class {differing[0]!r} is not in both train and {test.name}; allowed: "
            "the same classes"
        )
    return Folder(path, files, test_files, names)


def _classes(path: Path) -> tuple[tuple[str, ...], Files]:
    """Returns the names of the classes of a folder, and their files."""
    folders = sorted(each for each in path.iterdir() if each.is_dir() and each.name[0] != ".")
    if len(folders) < 2:
        raise ValueError(
            f"{path} holds {len(folders)} folders; allowed: one for each class, two or more"
        )
    known = Image.registered_extensions()
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(
            each
            for each in folder.rglob("*")
            if each.suffix.lower() in known and each.name[0] != "." and each.is_file()
        )
        if not found:
            raise ValueError(f"{folder} holds no images; allowed: one or more in every class")
        paths += found
        labels += [label] * len(found)
    return tuple(each.name for each in folders), Files(tuple(paths), np.array(labels, np.int64))


def _height_and_width(path: Path) -> tuple[int, int]:
    """Reads the size of a picture as it is shown, without decoding it."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(ORIENTATION) in TURNED
    except Exception as error:  # decoders raise their own
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    return (width, height) if turned else (height, width)
