"""Files of data sets: found, mapped to the right classes, and named when they are broken."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from saboc_jax import data
from saboc_jax.data import tfds as data_tfds


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path / "saboc_jax"


# Where data is looked for.


def test_missing_data_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        data.load("cifar10", tmp_path)
    message = str(caught.value)
    for part in (
        f"{tmp_path}/tfds/cifar10",
        f"{tmp_path}/cifar10",
        f"tfds build cifar10 --file_format=array_record --data_dir={tmp_path}",
        "SABOC_DATA_DIR",
        "Available: digits.",
    ):
        assert part in message
    with pytest.raises(FileNotFoundError, match="tfds build imagenet_resized/16x16"):
        data.load("imagenet16_120", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/imagenet16_120_standin.npz"):
        data.load("imagenet16_120_standin", tmp_path)
    monkeypatch.setenv("SABOC_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/elsewhere/tfds/cifar100"):
        data.load("cifar100")
    assert data.default_name() == "digits" == data.load("digits").name


def test_unknown_data_set_lists_what_exists() -> None:
    with pytest.raises(ValueError, match=r"no data set 'mnist'.*cifar10, cifar100.*digits"):
        data.load("mnist")


# TFDS directories made here.


def example(image: np.ndarray, label: int) -> bytes:
    import io

    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    record = tf_example_pb2.Example()
    record.features.feature["image"].bytes_list.value.append(png.getvalue())
    record.features.feature["label"].int64_list.value.append(label)
    return record.SerializeToString()


def write_tfds(
    directory: Path,
    builder: str,
    splits: dict[str, list[tuple[np.ndarray, list[int]]]],
    names: list[str] | int,
) -> None:
    """Writes a prepared directory; every split is a list of shards (images, labels)."""
    from array_record.python.array_record_module import ArrayRecordWriter

    directory.mkdir(parents=True)
    name = builder.split("/")[0]
    infos = []
    for split, shards in splits.items():
        for i, (images, labels) in enumerate(shards):
            file = directory / f"{name}-{split}.array_record-{i:05d}-of-{len(shards):05d}"
            writer = ArrayRecordWriter(str(file), "group_size:1")
            for image, label in zip(images, labels, strict=True):
                writer.write(example(image, label))
            writer.close()
        infos.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(labels)) for _, labels in shards],
            }
        )
    info = {"fileFormat": "array_record", "name": name, "splits": infos, "version": directory.name}
    if "/" in builder:
        info["configName"] = builder.split("/")[1]
    (directory / "dataset_info.json").write_text(json.dumps(info))
    package = "tensorflow_datasets.core.features"
    shape = [str(size) for size in splits["train"][0][0].shape[1:]]
    num_classes = names if isinstance(names, int) else len(names)
    features = {
        "image": {
            "image": {"dtype": "uint8", "shape": {"dimensions": shape}},
            "pythonClassName": f"{package}.image_feature.Image",
        },
        "label": {
            "classLabel": {"numClasses": str(num_classes)},
            "pythonClassName": f"{package}.class_label_feature.ClassLabel",
        },
    }
    (directory / "features.json").write_text(
        json.dumps(
            {
                "featuresDict": {"features": features},
                "pythonClassName": f"{package}.features_dict.FeaturesDict",
            }
        )
    )
    if not isinstance(names, int):
        (directory / "label.labels.txt").write_text("\n".join(names))


def random_images(seed: int, count: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def published_order() -> list[str]:
    import tensorflow_datasets as tfds

    path = tfds.core.tfds_path(data_tfds.LABELS_OF_IMAGENET_RESIZED)
    return Path(str(path)).read_text().split()


@pytest.mark.parametrize("order", ["published", "sorted", "unnamed"])
def test_imagenet16_120_keeps_the_first_classes_of_the_downsampled_imagenet(
    tmp_path: Path, cache: Path, order: str
) -> None:
    published = published_order()
    names = {"published": published, "sorted": sorted(published), "unnamed": 1000}[order]
    stored = published if order == "unnamed" else names
    classes = [0, 999, 119, 120, 5, 118, 500, 0, 121, 64]  # In the published order.
    kept = [i for i, label in enumerate(classes) if label < 120]
    images = random_images(0, 10, 16)
    labels = [stored.index(published[label]) for label in classes]
    write_tfds(
        tmp_path / "imagenet_resized/16x16/0.1.0",
        "imagenet_resized/16x16",
        {
            "train": [(images[:4], labels[:4]), (images[4:], labels[4:])],
            "validation": [(images[::-1], labels[::-1])],
        },
        names,
    )
    dataset = data.load("imagenet16_120", tmp_path)
    for _ in range(2):  # The second time from the cache.
        assert (dataset.num_classes, dataset.image_shape) == (120, (16, 16, 3))
        found, found_labels = dataset.train.fetch(np.arange(len(dataset.train)))
        assert found_labels.tolist() == [classes[i] for i in kept]
        assert np.array_equal(found, images[kept])
        found, found_labels = dataset.test.fetch([0, len(dataset.test) - 1])
        assert found_labels.tolist() == [64, 0]
        assert np.array_equal(found, images[[9, 0]])
        if order != "unnamed":
            assert dataset.class_names == tuple(published[:120])
        assert len(list(cache.glob("rows-*.npy"))) == 2
        assert not list(cache.glob("*.tmp"))
        dataset = data.load("imagenet16_120", tmp_path)
    for file in cache.glob("*.npy"):
        file.write_bytes(file.read_bytes()[:100])
    assert len(data.load("imagenet16_120", tmp_path).train) == len(kept)


def test_published_order_is_that_of_the_downsampled_imagenet() -> None:
    order = published_order()
    # Chrabaszcz et al. number 1 the kit fox, 2 the English setter, 3 the Siberian husky.
    assert order[:3] == ["n02119789", "n02100735", "n02110185"]
    assert len(set(order)) == 1000 and order != sorted(order)


def test_imagenet16_120_without_one_of_its_classes(tmp_path: Path) -> None:
    names = ["x" if name == "n02100735" else name for name in published_order()]
    images = random_images(0, 2, 16)
    splits = {"train": [(images, [0, 1])], "validation": [(images, [0, 1])]}
    directory = tmp_path / "tfds/imagenet_resized/16x16/0.1.0"
    write_tfds(directory, "imagenet_resized/16x16", splits, names)
    with pytest.raises(ValueError, match=rf"{directory}: label names lack 'n02100735'"):
        data.load("imagenet16_120", tmp_path)


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """A CIFAR-10 directory of three shards."""
    images, labels = random_images(1, 60, 32), [i % 10 for i in range(60)]
    shards = [(images[:40], labels[:40]), (images[40:], labels[40:])]
    directory = tmp_path / "cifar10" / "3.0.2"
    write_tfds(directory, "cifar10", {"train": shards, "test": [(images[:7], labels[:7])]}, 10)
    return directory


def test_tfds_directory(cifar: Path) -> None:
    root = cifar.parents[1]
    assert data.default_name(root) == "cifar10"
    assert data.available(root) == ("cifar10", "digits")
    dataset = data.load("cifar10", root)
    images, labels = dataset.train.fetch([59, 0, 39, 40, 0])
    assert np.array_equal(images, random_images(1, 60, 32)[[59, 0, 39, 40, 0]])
    assert labels.tolist() == [9, 0, 9, 0, 0]
    newer = cifar.parent / "3.0.10"
    shutil.copytree(cifar, newer)
    assert data.load("cifar10", root).train.reader.where() == str(newer)


@pytest.mark.parametrize("shard", ["train.array_record-00001-of-00002", "test.array_record"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_truncated_shard_is_named(cifar: Path, shard: str, keep: float) -> None:
    (file,) = cifar.glob(f"cifar10-{shard}*")
    os.truncate(file, int(file.stat().st_size * keep))
    with pytest.raises(ValueError, match=f"{file} is damaged or truncated"):
        data.load("cifar10", cifar.parents[1])


def test_damage_inside_a_shard_is_named_when_it_is_read(cifar: Path) -> None:
    file = cifar / "cifar10-train.array_record-00001-of-00002"
    dataset = data.load("cifar10", cifar.parents[1])
    content = bytearray(file.read_bytes())
    content[500:5000] = b"\xab" * 4500
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is damaged or truncated"):
        data.load("cifar10", cifar.parents[1]).train.fetch(np.arange(60))
    assert len(dataset.train) == 60


def test_incomplete_directories(cifar: Path) -> None:
    root = cifar.parents[1]
    shard = cifar / "cifar10-train.array_record-00000-of-00002"
    moved = shard.rename(cifar / "away")
    with pytest.raises(ValueError, match=f"{cifar} lacks {shard.name}"):
        data.load("cifar10", root)
    moved.rename(shard)
    info = cifar / "dataset_info.json"
    content = info.read_text()
    for broken, message in (
        (content[:50], f"{cifar} cannot be read"),
        (content.replace('"test"', '"other"'), f"{cifar} cannot be read as split 'test'"),
        (content.replace('"array_record"', '"tfrecord"'), "array_record"),
        (content.replace('["40", "20"]', '["40", "21"]'), "00001-of-00002 is damaged"),
    ):
        info.write_text(broken)
        with pytest.raises(ValueError, match=message):
            data.load("cifar10", root)
    info.unlink()
    with pytest.raises(ValueError, match=f"{cifar} lacks dataset_info.json"):
        data.load("cifar10", root)


@pytest.mark.parametrize(
    ("size", "labels", "classes", "message"),
    [
        (
            16,
            [0, 1],
            10,
            r"images of cifar10/train are uint8 \(16, 16, 3\), must be uint8 or float32 \(32",
        ),
        (32, [10, 1], 10, r"label 10 in cifar10/train, must be in \[0, 10\)"),
        (32, [0, 1], 12, "12 classes, cifar10 has 10"),
    ],
)
def test_wrong_contents(
    tmp_path: Path, size: int, labels: list[int], classes: int, message: str
) -> None:
    shards = [(random_images(0, 2, size), labels)]
    directory = tmp_path / "cifar10/3.0.2"
    write_tfds(directory, "cifar10", {"train": shards, "test": shards}, classes)
    with pytest.raises(ValueError, match=message) as caught:
        data.load("cifar10", tmp_path)
    assert str(directory) in str(caught.value)


# The stand-in's file.


def standin_arrays() -> dict[str, np.ndarray]:
    labels = np.arange(130, dtype=np.uint8) % 120
    return {
        "train_images": random_images(0, 130, 16),
        "train_labels": labels,
        "test_images": random_images(1, 130, 16),
        "test_labels": labels[::-1],
        "class_names": np.array([f"class {i}" for i in range(120)]),
    }


def test_standin(tmp_path: Path) -> None:
    np.savez(tmp_path / "imagenet16_120_standin.npz", **standin_arrays())
    dataset = data.load("imagenet16_120_standin", tmp_path)
    assert "stand-in" in dataset.description
    images, labels = dataset.test.fetch([129, 3])
    assert np.array_equal(images, random_images(1, 130, 16)[[129, 3]])
    assert labels.tolist() == [0, 6]
    assert dataset.class_names[7] == "class 7"


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_truncated_npz_is_named(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "imagenet16_120_standin.npz"
    np.savez_compressed(path, **standin_arrays())
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(ValueError, match=f"{path} is damaged or truncated"):
        data.load("imagenet16_120_standin", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": None}, "lacks an array"),
        ({"train_images": random_images(0, 130, 8)}, r"train_images is uint8 \(130, 8, 8, 3\)"),
        ({"test_images": np.zeros((130, 16, 16, 3))}, "test_images is float64"),
        ({"test_labels": np.arange(7)}, r"test_labels is int64 \(7,\)"),
        ({"test_labels": np.full(130, 120)}, r"label 120 in .*test, must be in \[0, 120\)"),
        ({"class_names": np.array(["a"])}, "1 class names, not 120"),
    ],
)
def test_wrong_npz(tmp_path: Path, change: dict, message: str) -> None:
    arrays = {k: v for k, v in (standin_arrays() | change).items() if v is not None}
    path = tmp_path / "imagenet16_120_standin.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        data.load("imagenet16_120_standin", tmp_path)
    assert str(path) in str(caught.value)
