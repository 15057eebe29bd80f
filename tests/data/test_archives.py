"""Published archives of CIFAR, made small: both forms are read; a pickle runs nothing."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saboc_jax import data
from saboc_jax.data.archives import BATCHES

PER_BATCH = 3


def batch(seed: int, classes: int) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (PER_BATCH, 3, 32, 32), np.uint8)
    return images, rng.integers(0, classes, PER_BATCH).tolist()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def for_python(classes: int) -> dict[str, bytes]:
    prefix = "fine_" if classes == 100 else ""
    splits = ("train", "test") if classes == 100 else (*BATCHES, "test_batch")

    def content(seed: int) -> bytes:
        images, labels = batch(seed, classes)
        # Their archives were written by Python 2: keys are bytes.
        record = {b"data": images.reshape(PER_BATCH, -1), f"{prefix}labels".encode(): labels}
        return pickle.dumps(record, protocol=2)

    names = [f"class {number}".encode() for number in range(classes)]
    meta = pickle.dumps({f"{prefix}label_names".encode(): names}, protocol=2)
    files = {name: content(seed) for seed, name in enumerate(splits)}
    return files | {"meta" if classes == 100 else "batches.meta": meta}


def binary(classes: int) -> dict[str, bytes]:
    splits = ("train", "test") if classes == 100 else (*BATCHES, "test_batch")

    def content(seed: int) -> bytes:
        images, labels = batch(seed, classes)
        coarse = b"\7" if classes == 100 else b""
        return b"".join(
            coarse + bytes([label]) + image.tobytes()
            for image, label in zip(images, labels, strict=True)
        )

    names = "\n".join(f"class_{number}" for number in range(classes)) + "\n\n"
    files = {f"{name}.bin": content(seed) for seed, name in enumerate(splits)}
    return files | {
        "fine_label_names.txt" if classes == 100 else "batches.meta.txt": names.encode()
    }


@pytest.mark.parametrize("form", [for_python, binary])
@pytest.mark.parametrize("classes", [10, 100])
def test_an_archive_becomes_the_data_set(
    form: Callable[[int], dict[str, bytes]], classes: int, tmp_path: Path
) -> None:
    archive = write_tar(tmp_path / "archive.tar.gz", form(classes))
    assert data.convert_archive(archive, tmp_path) == tmp_path / f"cifar{classes}.npz"
    assert f"cifar{classes}" in data.available(tmp_path)
    dataset = data.load(f"cifar{classes}", tmp_path)
    batches = 5 if classes == 10 else 1
    assert (len(dataset.train), len(dataset.test)) == (batches * PER_BATCH, PER_BATCH)
    images, labels = batch(batches - 1, classes)
    read, read_labels = dataset.train.fetch([batches * PER_BATCH - 1])
    np.testing.assert_array_equal(read[0], images[-1].transpose(1, 2, 0))
    assert read_labels.tolist() == labels[-1:]
    assert dataset.class_names[9] in ("class 9", "class_9")


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch evil",)


def test_what_is_no_archive_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.tar.gz"
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.tar\.gz"):
        data.convert_archive(path, tmp_path)
    path.write_bytes(b"no tar")
    with pytest.raises(ValueError, match="is no tar archive, or damaged"):
        data.convert_archive(path, tmp_path)
    with pytest.raises(ValueError, match="holds other; allowed: a published archive of CIFAR"):
        data.convert_archive(write_tar(path, {"other": b""}), tmp_path)
    with pytest.raises(ValueError, match=r"is damaged: .* no whole number of images"):
        data.convert_archive(write_tar(path, binary(100) | {"test.bin": b"1"}), tmp_path)
    files = for_python(100) | {"test": pickle.dumps(Evil())}
    with pytest.raises(ValueError, match=r"is damaged: \w+\.system is no array"):
        data.convert_archive(write_tar(path, files), tmp_path)
    assert not (tmp_path / "evil").exists() and not list(tmp_path.glob("*.npz"))
