"""The published archives of CIFAR as npz files, without TensorFlow.

Both forms are read: Python's (`cifar-10-python.tar.gz`, `cifar-100-python.tar.gz`) and the binary
one (`cifar-10-binary.tar.gz`, `cifar-100-binary.tar.gz`). Images stay in the order of the files,
which is not that of TFDS: a key draws other images of the same data set.
"""

import io
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saboc_jax.data.sources import HostLabels, RawImages

PIXELS = 3 * 32 * 32


class Archive(NamedTuple):
    """The files of a published archive.

    Attributes:
        dataset: the data set.
        train: names of its training files, in order.
        test: the name of its test file.
        names: the name of the file with the names of classes.
        labels: the key of labels in a pickled file; "": the files are binary.
        classes: the key of class names in a pickled file of names.
        bytes_before: bytes of labels before an image in a binary file; the last is the label.
    """

    dataset: str
    train: tuple[str, ...]
    test: str
    names: str
    labels: str = ""
    classes: str = ""
    bytes_before: int = 1


BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
ARCHIVES = (
    Archive("cifar10", BATCHES, "test_batch", "batches.meta", "labels", "label_names"),
    Archive("cifar100", ("train",), "test", "meta", "fine_labels", "fine_label_names"),
    Archive(
        "cifar10",
        tuple(f"{name}.bin" for name in BATCHES),
        "test_batch.bin",
        "batches.meta.txt",
    ),
    Archive("cifar100", ("train.bin",), "test.bin", "fine_label_names.txt", bytes_before=2),
)


def convert_archive(path: str | Path, folder: str | Path) -> Path:
    """Writes the data set of a published archive as an npz file that `load` finds by name.

    Args:
        path: the archive, as downloaded.
        folder: where the file is written: what `data_dir` names.

    Raises:
        FileNotFoundError: if there is no such archive.
        ValueError: if it is no archive of CIFAR, or damaged.
    """
    path, folder = Path(path).expanduser(), Path(folder).expanduser()
    files = _files(path)
    kind = next(
        (kind for kind in ARCHIVES if {*kind.train, kind.test, kind.names} <= set(files)), None
    )
    if kind is None:
        raise ValueError(
            f"{path} holds {', '.join(sorted(files)) or 'no files'}; allowed: a published archive "
            "of CIFAR-10 or CIFAR-100, for Python or binary"
        )
    try:
        train, test = (_split(kind, [files[name] for name in names])
                       for names in (kind.train, (kind.test,)))  # fmt: skip
        classes = _class_names(kind, files[kind.names])
    except (ValueError, KeyError, EOFError, IndexError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{kind.dataset}.npz"
    unfinished = target.with_name(f".{target.name}")
    arrays = {"train_images": train[0], "train_labels": train[1]}
    arrays |= {"test_images": test[0], "test_labels": test[1], "class_names": np.array(classes)}
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    unfinished.replace(target)
    return target


def _files(path: Path) -> dict[str, bytes]:
    """Returns the files of an archive by name, without their folder."""
    try:
        with tarfile.open(path) as archive:
            return {
                Path(member.name).name: file.read()
                for member in archive
                if member.isfile() and (file := archive.extractfile(member)) is not None
            }
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no tar archive, or damaged: {error}") from error


def _split(kind: Archive, contents: Sequence[bytes]) -> tuple[RawImages, HostLabels]:
    """Returns the images and labels of the files of a split."""
    parts = [_pickled(kind, each) if kind.labels else _binary(kind, each) for each in contents]
    planes = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    if planes.shape != (len(labels), PIXELS) or not len(labels):
        raise ValueError(f"images {planes.shape} with {len(labels)} labels")
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _pickled(kind: Archive, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    images = np.asarray(batch[b"data"])
    if images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype}")
    return images, np.asarray(batch[kind.labels.encode()])


def _binary(kind: Archive, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    record = kind.bytes_before + PIXELS
    if len(content) % record:
        raise ValueError(f"{len(content)} bytes are no whole number of images")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return rows[:, kind.bytes_before :], rows[:, kind.bytes_before - 1]


def _class_names(kind: Archive, content: bytes) -> list[str]:
    if not kind.labels:
        return content.decode().split()
    names = _Unpickler(io.BytesIO(content), encoding="bytes").load()[kind.classes.encode()]
    return [name.decode() for name in names]


class _Unpickler(pickle.Unpickler):
    """Reads arrays and plain types; a pickle may otherwise run anything."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")
