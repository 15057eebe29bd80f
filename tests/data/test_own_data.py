"""One's own images: arrays, files, folders, loaders; what is wrong with them is one sentence."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import saboc_jax as sj
from saboc_jax import data
from saboc_jax.training.recipes import RECIPES

N = 30
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 3), np.uint8)
LABELS = np.arange(N) % 3
FLOATS = IMAGES.astype(np.float32) / 7 - 3


def rows_of(split: data.Split) -> set[bytes]:
    return {image.tobytes() for image in split.fetch(np.arange(len(split)))[0]}


# Splits and statistics.


def test_a_fifth_of_every_class_is_held_out_and_no_image_is_in_both() -> None:
    dataset = data.from_arrays(IMAGES, LABELS)
    assert (len(dataset.train), len(dataset.test), dataset.num_classes) == (24, 6, 3)
    held_out = dataset.test.fetch(np.arange(6))[1]
    assert np.bincount(held_out).tolist() == [2, 2, 2]
    assert rows_of(dataset.train) | rows_of(dataset.test) == {each.tobytes() for each in IMAGES}
    assert not rows_of(dataset.train) & rows_of(dataset.test)


def test_the_split_depends_on_the_key_alone() -> None:
    key = jax.random.key(1)
    first, again = data.from_arrays(IMAGES, LABELS), data.from_arrays(IMAGES, LABELS)
    other = data.from_arrays(IMAGES, LABELS, key=key)
    assert rows_of(first.test) == rows_of(again.test) != rows_of(other.test)


def test_rare_classes_keep_an_example_to_train_on() -> None:
    labels = np.array([0] * 27 + [1, 1, 2])
    dataset = data.from_arrays(IMAGES, labels, test_share=0.9)
    counts = np.bincount(dataset.train.fetch(np.arange(len(dataset.train)))[1])
    assert counts[1:].tolist() == [1, 1]


@pytest.mark.parametrize("images", [IMAGES, FLOATS], ids=["bytes", "floats"])
def test_training_images_have_mean_0_and_deviation_1(images: np.ndarray) -> None:
    dataset = data.from_arrays(images, LABELS)
    drawn, _ = data.all_examples(dataset, "train")
    assert np.allclose(drawn.mean((0, 1, 2)), 0, atol=1e-5)
    assert np.allclose(drawn.std((0, 1, 2)), 1, atol=1e-4)


def test_without_normalisation_pixels_stay_as_they_are() -> None:
    dataset = data.from_arrays(FLOATS, LABELS, FLOATS, LABELS, normalise=False)
    assert np.array_equal(data.all_examples(dataset, "test")[0], FLOATS)


def test_a_constant_channel_becomes_0() -> None:
    images = IMAGES.copy()
    images[..., 1] = 9
    drawn, _ = data.all_examples(data.from_arrays(images, LABELS), "train")
    assert np.allclose(drawn[..., 1], 0, atol=1e-6) and np.isfinite(drawn).all()


def test_channels_may_come_first_and_grey_needs_no_axis() -> None:
    first = data.from_arrays(np.moveaxis(IMAGES, -1, 1), LABELS, channels_first=True)
    assert rows_of(first.train) == rows_of(data.from_arrays(IMAGES, LABELS).train)
    assert data.from_arrays(IMAGES[..., 0], LABELS).image_shape == (6, 5, 1)


def test_whole_numbers_of_any_type_and_labels_as_a_column() -> None:
    dataset = data.from_arrays(IMAGES.astype(np.int64).tolist(), LABELS[:, None].tolist())
    assert rows_of(dataset.train) == rows_of(data.from_arrays(IMAGES, LABELS).train)


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "count": (
        lambda: data.from_arrays(IMAGES, LABELS[:7]),
        r"labels of shape \(7,\); allowed: \(3",
    ),
    "one-hot": (lambda: data.from_arrays(IMAGES, np.eye(3)[LABELS]), "look one-hot"),
    "floats": (
        lambda: data.from_arrays(IMAGES, LABELS * 1.0),
        "labels are float64; allowed: int.*loss='square'",
    ),
    "names": (lambda: data.from_arrays(IMAGES, ["a", "b"] * 15), "labels are <U1; allowed: int"),
    "negative": (lambda: data.from_arrays(IMAGES, LABELS - 1), r"labels\[0\]=-1"),
    "from 1": (lambda: data.from_arrays(IMAGES, LABELS + 1), "0 does not occur; allowed"),
    "too few": (lambda: data.from_arrays(IMAGES, LABELS, num_classes=2), "num_classes=2 with labe"),
    "one class": (lambda: data.from_arrays(IMAGES, LABELS * 0), "num_classes=1 with"),
    "name count": (
        lambda: data.from_arrays(IMAGES, LABELS, num_classes=3, class_names="abcd"),
        "4 class_names; allowed: 3",
    ),
    "order": (
        lambda: data.from_arrays(np.moveaxis(IMAGES, -1, 1), LABELS),
        r"\(30, 3, 6, 5\) look like \[n, channels",
    ),
    "shape": (lambda: data.from_arrays(IMAGES[:, 0, 0], LABELS), r"images of shape \(30, 3\)"),
    "empty": (lambda: data.from_arrays(IMAGES[:0], LABELS[:0]), r"images of shape \(0, 6"),
    "ragged": (lambda: data.from_arrays([IMAGES[0], IMAGES[0, 1:]], [0, 1]), "images cannot be"),
    "text": (lambda: data.from_arrays(["a"] * N, LABELS), "images are <U1"),
    "wide": (
        lambda: data.from_arrays(IMAGES.astype(np.uint16) * 9, LABELS),
        "images are uint16 from 0 to 2295; allowed: uint8",
    ),
    "nan": (lambda: data.from_arrays(with_value(np.nan), LABELS), r"images\[4\] holds nan"),
    "inf": (lambda: data.from_arrays(with_value(-np.inf), LABELS), r"images\[4\] holds -inf"),
    "flat": (lambda: data.from_arrays(IMAGES * 0, LABELS), "all images of arrays/train have one"),
    "alone": (lambda: data.from_arrays(IMAGES, LABELS, IMAGES), "test_images is given alone"),
    "other shape": (
        lambda: data.from_arrays(IMAGES, LABELS, IMAGES[:, 1:], LABELS),
        r"test_images of shape \(5, 5, 3\), images of shape",
    ),
    "other kind": (lambda: data.from_arrays(IMAGES, LABELS, FLOATS, LABELS), "test_images are flo"),
    "other scale": (
        lambda: data.from_arrays(FLOATS, LABELS, FLOATS * 255, LABELS),
        "allowed: both on one scale",
    ),
    "test nan": (
        lambda: data.from_arrays(FLOATS, LABELS, with_value(np.nan), LABELS),
        r"test_images\[4\] holds nan",
    ),
    "share": (lambda: data.from_arrays(IMAGES, LABELS, test_share=1.0), "test_share=1.0; allowed"),
    "singles": (lambda: data.from_arrays(IMAGES, np.arange(N)), "one of each class"),
    "pairs": (lambda: data.from_iterable([(1, 2, 3)]), r"train\[0\] is a tuple; allowed"),
    "mapping": (lambda: data.from_iterable([{"x": 1}]), r"train\[0\] is a mapping with x"),
    "batch": (lambda: data.from_iterable([(IMAGES, LABELS[:4])]), "has 30 images and 4 labels"),
    "nothing": (lambda: data.from_iterable([]), "train yields nothing"),
    "sizes": (
        lambda: data.from_iterable([(IMAGES[0], 0), (IMAGES[0, 1:], 1)]),
        r"train\[1\] has shape \(5, 5, 3\)",
    ),
    "size": (
        lambda: data.from_iterable([(IMAGES[0], 0)], size=(1, 2, 3)),
        r"size=\(1, 2, 3\); all",
    ),
    "path": (lambda: data.load("no/such"), "no data set 'no/such'; allowed: cifar10"),
}


def with_value(value: float) -> np.ndarray:
    images = FLOATS.copy()
    images[4, 2, 1, 0] = value
    return images


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_is_one_sentence_that_names_it(name: str) -> None:
    make, said = FAULTS[name]
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


# Files and folders.


def test_files_of_our_names_of_keras_and_without_a_split(tmp_path: Path) -> None:
    expected = rows_of(data.from_arrays(IMAGES, LABELS).train)
    np.savez(tmp_path / "plain.npz", images=IMAGES, labels=LABELS, class_names=["a", "b", "c"])
    plain = data.load(str(tmp_path / "plain.npz"))
    assert rows_of(plain.train) == expected and plain.class_names == ("a", "b", "c")
    split = (IMAGES[:20], LABELS[:20], IMAGES[20:], LABELS[20:])
    ours = ("train_images", "train_labels", "test_images", "test_labels")
    for names in (ours, ("x_train", "y_train", "x_test", "y_test")):
        np.savez(tmp_path / "split.npz", **dict(zip(names, split, strict=True)))
        assert len(data.load(str(tmp_path / "split.npz")).test) == 10


def test_what_is_wrong_with_a_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    for content, said in (({"pictures": IMAGES}, "holds pictures; allowed"), (None, "damaged")):
        np.savez(path, **content) if content else path.write_bytes(b"no zip")
        with pytest.raises(ValueError, match=f"bad.npz.*{said}"):
            data.load(str(path))
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.npz"):
        data.load(str(tmp_path / "none.npz"))


def folder_of(path: Path, images: np.ndarray = IMAGES, classes: str = "abc") -> Path:
    for number, image in enumerate(images):
        folder = path / classes[number % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return path


def test_a_folder_is_the_same_as_its_arrays(tmp_path: Path) -> None:
    dataset = data.load(str(folder_of(tmp_path / "flowers")))
    assert (dataset.name, dataset.class_names) == ("flowers", ("a", "b", "c"))
    assert len(dataset.test) == 6
    order = np.argsort(LABELS, kind="stable")
    arrays = data.from_arrays(IMAGES[order], LABELS[order])
    assert rows_of(dataset.train) == rows_of(arrays.train)
    assert np.allclose(dataset.mean, arrays.mean) and np.allclose(dataset.std, arrays.std)


def test_folders_train_and_test_are_the_splits(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", IMAGES[:21])
    folder_of(tmp_path / "val", IMAGES[21:])
    dataset = data.from_folder(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (21, 9)
    (tmp_path / "val" / "d").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "val" / "d" / "0.png")
    with pytest.raises(ValueError, match="'d' is not in both train and val"):
        data.from_folder(tmp_path)


def test_images_of_unequal_size_need_a_size(tmp_path: Path) -> None:
    folder_of(tmp_path)
    Image.fromarray(IMAGES[0, 1:]).save(tmp_path / "b" / "small.jpg")
    with pytest.raises(ValueError, match=r"small.jpg is 5 x 5, .*allowed: images of one size"):
        data.from_folder(tmp_path)
    assert data.from_folder(tmp_path, 4).image_shape == (4, 4, 3)
    grey = data.from_folder(tmp_path, (4, 6), channels=1)
    assert data.fetch(grey, "train", [0, 1])[0].shape == (2, 4, 6, 1)


def test_what_is_wrong_with_a_folder_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*none"):
        data.from_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="holds 0 folders; allowed: one for each class"):
        data.from_folder(tmp_path)
    folder_of(tmp_path)
    (tmp_path / "d").mkdir()
    with pytest.raises(ValueError, match="d holds no images"):
        data.from_folder(tmp_path)
    (tmp_path / "d" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"d/0\.png cannot be read as an image"):
        data.from_folder(tmp_path)


# What others keep.


class Rows:
    """As much of a Hugging Face data set as is read."""

    def __init__(self, rows: slice) -> None:
        image, label = type("Image", (), {})(), type("ClassLabel", (), {"names": ["x", "y", "z"]})()
        self.features = {"id": SimpleNamespace(), "picture": image, "kind": label}
        self.rows = rows

    def __iter__(self) -> Any:
        for image, label in zip(IMAGES[self.rows], LABELS[self.rows], strict=True):
            yield {"id": 0, "picture": Image.fromarray(image), "kind": int(label)}


def test_columns_of_a_hugging_face_data_set_are_found_by_their_features() -> None:
    splits = {"train": Rows(slice(0, 20)), "validation": Rows(slice(20, 30))}
    dataset = data.from_huggingface(splits)
    assert (len(dataset.train), len(dataset.test)) == (20, 10)
    assert dataset.class_names == ("x", "y", "z")
    assert rows_of(data.from_huggingface(splits["train"], max_examples=20).train) <= rows_of(
        dataset.train
    )
    with pytest.raises(ValueError, match="image='photo'; allowed: id, picture, kind"):
        data.from_huggingface(splits, image="photo")


def test_loaders_of_batches_singles_and_mappings_give_the_same() -> None:
    halves = (slice(0, 15), slice(15, N))
    batches = [(np.moveaxis(IMAGES[rows], -1, 1), LABELS[rows]) for rows in halves]
    singles = (
        {"image": image, "label": label} for image, label in zip(IMAGES, LABELS, strict=True)
    )
    expected = rows_of(data.from_arrays(IMAGES, LABELS).train)
    assert rows_of(data.from_iterable(batches, channels_first=True).train) == expected
    assert rows_of(data.from_iterable(singles).train) == expected


def test_a_loader_that_never_ends_is_cut() -> None:
    def forever() -> Any:
        while True:
            yield IMAGES, LABELS

    dataset = data.from_iterable(forever(), test=[(IMAGES, LABELS)], max_examples=12)
    assert (len(dataset.train), len(dataset.test)) == (12, 12)


# Used.


def test_functions_take_them() -> None:
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array) -> jax.Array:
            return nn.Dense(3)(images.reshape(len(images), -1))

    dataset, key = data.from_iterable([(FLOATS, LABELS)]), jax.random.key(0)
    ranked = sj.rank([Linear()], dataset, key, repeats=1, batch_size=6, progress=False)
    assert np.isfinite(ranked.scores[0].values).all()
    recipe = replace(RECIPES["tiny"], epochs=1, batch_size=6)
    _, epochs = sj.train(Linear(), dataset, recipe, progress=False)
    assert np.isfinite(epochs[0]["test_loss"])


def test_binaries_take_a_folder(tmp_path: Path) -> None:
    folder_of(tmp_path / "flowers")
    flags = [f"--dataset={tmp_path / 'flowers'}", "--resize=8", "--scorers=params"]
    flags += ["--num_archs=2", "--batch_size=6", f"--store={tmp_path / 's.sqlite'}"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.score", *flags], capture_output=True, text=True
    )
    assert "Best 2 of 2" in done.stdout, done.stderr
