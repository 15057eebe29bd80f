"""Registry of the data sets: how each is found, opened, normalised and described.

CIFAR and ImageNet16 use the channel means and standard deviations of NAS-Bench-201's training.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saboc_jax.data import sources as data_sources
from saboc_jax.data import tfds as data_tfds
from saboc_jax.data.elsewhere import from_folder, from_npz
from saboc_jax.data.resizing import resized
from saboc_jax.data.sources import Dataset, Source, Split

Directory = str | os.PathLike[str] | None
ARCHIVED = ("cifar10", "cifar100")
STANDIN = "imagenet16_120_standin.npz"


class _Entry(NamedTuple):
    """Description of a data set and its place: a TFDS builder, else a file, else this package."""

    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    description: str
    builder: str = ""
    test_split: str = "test"
    first_classes: int | None = None
    file: str = ""


def _of_255(*values: float) -> tuple[float, ...]:
    return tuple(value / 255 for value in values)


_IMAGENET16 = (_of_255(122.68, 116.66, 104.01), _of_255(63.22, 61.26, 65.09))
_REGISTRY = {
    "cifar10": _Entry(
        10,
        (32, 32, 3),
        _of_255(125.3, 123.0, 113.9),
        _of_255(63.0, 62.1, 66.7),
        "CIFAR-10 (Krizhevsky, 2009), 32x32; no licence stated, cite the technical report.",
        builder="cifar10",
    ),
    "cifar100": _Entry(
        100,
        (32, 32, 3),
        _of_255(129.3, 124.1, 112.4),
        _of_255(68.2, 65.4, 70.4),
        "CIFAR-100 (Krizhevsky, 2009), 32x32; no licence stated, cite the technical report.",
        builder="cifar100",
    ),
    "imagenet16_120": _Entry(
        120,
        (16, 16, 3),
        *_IMAGENET16,
        "ImageNet16-120: the first 120 classes of the downsampled ImageNet (Chrabaszcz et al., "
        "2017), 16x16, as in NAS-Bench-201; its validation split is held out. ImageNet's terms: "
        "non-commercial research and education.",
        builder="imagenet_resized/16x16",
        test_split="validation",
        first_classes=120,
    ),
    "imagenet16_120_standin": _Entry(
        120,
        (16, 16, 3),
        *_IMAGENET16,
        "A stand-in for ImageNet16-120, not that data set: 120 classes of Tiny-ImageNet reduced "
        "to 16x16. ImageNet's terms: non-commercial research and education.",
        file=STANDIN,
    ),
    "digits": _Entry(
        10,
        (32, 32, 3),
        None,
        None,
        "1,797 handwritten digits (Alpaydin and Kaynak, 1998; UCI, CC BY 4.0) that come with "
        "saboc_jax, 8x8 grey enlarged to 32x32x3; the last fifth of each class is held out.",
    ),
}
DATASETS = tuple(_REGISTRY)


def load(name: str, data_dir: Directory = None, image_size: int | None = None) -> Dataset:
    """Opens a data set; images are decoded when they are fetched.

    Args:
        name: one of `DATASETS`; or the path of an npz file or of a folder of classes, see
            `from_npz` and `from_folder`.
        data_dir: directory of the files; TFDS directories may also be in its subdirectory `tfds`.
            Default: the environment variable SABOC_DATA_DIR, else TFDS_DATA_DIR, else
            ~/tensorflow_datasets. "digits" and paths do not use it.
        image_size: height and width to which images are brought.

    Raises:
        ValueError: if there is no such data set, or its files are damaged or incomplete.
        FileNotFoundError: if its files are missing; the message lists the searched places, how
            to get the data set and which ones are available.
    """
    if name not in _REGISTRY:
        return _load_path(name, image_size)
    if image_size is not None:
        return resized(load(name, data_dir), image_size)
    entry = _REGISTRY[name]
    source = _open(name, entry, default_directory(data_dir))
    stored = {len(source.class_names)} - {0, entry.num_classes}
    if stored:
        raise ValueError(
            f"{source.train.where()}: {stored.pop()} classes, {name} has {entry.num_classes}"
        )
    train, test = (
        Split(f"{name}/{split}", entry.image_shape, entry.num_classes, reader)
        for split, reader in (("train", source.train), ("test", source.test))
    )
    for split in (train, test):
        if not len(split):
            raise ValueError(f"{split.reader.where()}: {split.name} is empty")
        split.fetch([0])  # Detects a wrong image shape now, not in the middle of a long run.
    mean, std = (entry.mean, entry.std) if entry.mean and entry.std else _statistics(train)
    return Dataset(
        name,
        entry.num_classes,
        entry.image_shape,
        mean,
        std,
        source.class_names,
        train,
        test,
        entry.description,
    )


def _load_path(name: str, image_size: int | None) -> Dataset:
    """Opens the npz file or the folder of classes of a path."""
    path = Path(name).expanduser()
    if path.suffix == ".npz" and not path.is_dir():
        found = from_npz(path)
        return found if image_size is None else resized(found, image_size)
    if path.is_dir():
        return from_folder(path, image_size)
    raise ValueError(
        f"no data set {name!r}; allowed: {', '.join(DATASETS)}, or the path of an npz file or of a "
        "folder of classes"
    )


def available(data_dir: Directory = None) -> tuple[str, ...]:
    """Returns the names of the data sets that are present, without opening their files."""
    base = default_directory(data_dir)
    return tuple(name for name, entry in _REGISTRY.items() if _find(entry, base) is not None)


def default_name(data_dir: Directory = None) -> str:
    """Returns the default data set: CIFAR-10 if it is present, else the digits."""
    return "cifar10" if "cifar10" in available(data_dir) else "digits"


def default_directory(data_dir: Directory = None) -> Path:
    """Returns the first of `data_dir`, SABOC_DATA_DIR, TFDS_DATA_DIR and TFDS's default."""
    default = os.environ.get("SABOC_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    return Path(data_dir or default or "~/tensorflow_datasets").expanduser()


def prepare(name: str, data_dir: Directory = None) -> Path:
    """Makes TFDS download a data set and write it as array_record files, unless it is present.

    TFDS shows its own progress. It needs TensorFlow for writing, not for reading.

    Args:
        name: one of `DATASETS`.
        data_dir: see `load`.

    Returns:
        The directory of the version.

    Raises:
        ValueError: if there is no such data set, it does not come from TFDS, or TFDS failed; the
            message says what to do instead.
    """
    if name not in _REGISTRY:
        raise ValueError(f"no data set {name!r}; there are {', '.join(DATASETS)}")
    entry, base = _REGISTRY[name], default_directory(data_dir)
    if not entry.builder:
        known = ", ".join(other for other, one in _REGISTRY.items() if one.builder)
        what = f"it is the file {base / entry.file}" if entry.file else "it comes with saboc_jax"
        raise ValueError(f"{name} is not prepared by TFDS: {what}; allowed: {known}")
    if _find(entry, base) is None:
        data_tfds.prepare_tfds(entry.builder, base)
    found = _find(entry, base)
    if found is None:
        raise ValueError(f"TFDS prepared {entry.builder}, but it is not under {base}")
    return found


def _find(entry: _Entry, base: Path) -> Path | None:
    """Returns the directory or file, `base` for an embedded data set, None if not found."""
    if entry.builder:
        found = data_tfds.find_tfds(entry.builder, (base / "tfds", base))
        converted = base / f"{entry.builder}.npz"  # by `convert_archive`
        return converted if found is None and converted.is_file() else found
    path = base / entry.file
    return path if not entry.file or path.is_file() else None


def _open(name: str, entry: _Entry, base: Path) -> Source:
    path = _find(entry, base)
    if path is None:
        raise FileNotFoundError(_not_found(name, entry, base))
    if entry.builder and path.suffix != ".npz":
        return data_tfds.read_tfds(entry.builder, path, entry.test_split, entry.first_classes)
    if entry.file or entry.builder:
        return data_sources.read_npz(path, entry.image_shape, entry.num_classes)
    return data_sources.read_digits()


def _not_found(name: str, entry: _Entry, base: Path) -> str:
    if entry.builder:
        looked = f"{base / 'tfds' / entry.builder}/<version> and {base / entry.builder}/<version>"
        get = (
            f"Prepare it on a machine with TensorFlow by `saboc fetch_data --prepare={name}`, or "
            f"by `{data_tfds.build_command(entry.builder, base)}`"
        )
        if name in ARCHIVED:
            get += ", convert its published archive by `saboc fetch_data --archive=FILE`"
    else:
        looked = str(base / entry.file)
        get = (
            "It holds uint8 train_images and test_images [n, 16, 16, 3], integer train_labels "
            "and test_labels [n], and class_names [120]"
        )
    return (
        f"data set {name} is not there: looked for {looked}. {get}, or name the directory that "
        f"holds it by data_dir (--data_dir) or SABOC_DATA_DIR. "
        f"Available: {', '.join(available(base))}."
    )


def _statistics(train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, for pixels in [0, 1]."""
    pixels = train.fetch(np.arange(len(train)))[0].reshape(-1, train.image_shape[-1]) / 255
    return tuple(pixels.mean(0).tolist()), tuple(pixels.std(0).tolist())
