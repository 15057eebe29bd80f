"""Data sets and draws: same key same bits, and the paper's perturbation and targets."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saboc_jax import data
from saboc_jax.data import datasets
from saboc_jax.data.sources import DIGITS
from saboc_jax.keys import Purpose, key_for
from saboc_jax.types import Batch

ALL_FIELDS = frozenset(Batch._fields)
SMALL = {"num_crops": 40, "more": 2}


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def shared() -> Path:
    directory = os.environ.get("SABOC_DATA_DIR")
    if not directory:
        pytest.skip("SABOC_DATA_DIR is not set: the real data sets are not available")
    return Path(directory)


def same(a: Batch, b: Batch) -> bool:
    return all(
        (x is None and y is None) or np.array_equal(np.asarray(x), np.asarray(y))
        for x, y in zip(a, b, strict=True)
    )


def run(code: str, **env: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **env},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


# Draws.


def test_import_is_light_and_reading_needs_no_tensorflow() -> None:
    code = (
        "import sys; from saboc_jax import data; import jax;"
        "print([m for m in ('tensorflow_datasets', 'sklearn', 'tensorflow') if m in sys.modules],"
        "jax._src.xla_bridge._backends)"
    )
    assert run(code) == "[] {}"


def test_same_key_same_bits_in_another_process(digits: data.Dataset) -> None:
    code = (
        "import hashlib, jax; from saboc_jax import data; from saboc_jax.types import Batch;"
        "b = data.draw(data.load('digits'), jax.random.key(3), 8, needs=Batch._fields,"
        "num_crops=40, more=2);"
        "print(hashlib.sha256(b''.join(x.tobytes() for x in jax.device_get(b))).hexdigest())"
    )
    batch = data.draw(digits, jax.random.key(3), 8, needs=ALL_FIELDS, **SMALL)
    here = hashlib.sha256(b"".join(x.tobytes() for x in jax.device_get(batch))).hexdigest()
    assert run(code) == here


def test_every_field_differs_between_keys(digits: data.Dataset) -> None:
    first, again, other = (
        data.draw(digits, jax.random.key(seed), 16, needs=ALL_FIELDS, **SMALL) for seed in (0, 0, 1)
    )
    assert same(first, again)
    for name, a, b in zip(Batch._fields, first, other, strict=True):
        assert not np.array_equal(a, b), name


@settings(max_examples=25, deadline=None)
@given(needs=st.sets(st.sampled_from(sorted(ALL_FIELDS))), seed=st.integers(0, 2**31 - 1))
def test_fields_do_not_depend_on_one_another(needs: set[str], seed: int) -> None:
    dataset, key = data.load("digits"), jax.random.key(seed)
    full = data.draw(dataset, key, 8, needs=ALL_FIELDS, **SMALL)
    part = data.draw(dataset, key, 8, needs=needs, **SMALL)
    for name in Batch._fields:
        if name in needs | {"images", "labels"}:
            assert np.array_equal(getattr(part, name), getattr(full, name)), name
        else:
            assert getattr(part, name) is None, name


def test_shapes_and_types(digits: data.Dataset) -> None:
    batch = data.draw(digits, jax.random.key(0), 5, needs=ALL_FIELDS, **SMALL, crop_size=4)
    shapes = {name: getattr(batch, name).shape for name in Batch._fields}
    images = (5, 32, 32, 3)
    assert shapes == {
        "images": images,
        "labels": (5,),
        "test_images": images,
        "test_labels": (5,),
        "perturbed_images": images,
        "more_images": (2, *images),
        "more_labels": (2, 5),
        "crops": (40, 4, 4, 1),
    }
    for name, field in zip(Batch._fields, batch, strict=True):
        assert isinstance(field, jax.Array)
        assert field.dtype == (jnp.int32 if "labels" in name else jnp.float32), name


@settings(max_examples=20, deadline=None)
@given(
    split=st.sampled_from(["train", "test"]),
    seed=st.integers(0, 2**31 - 1),
    sizes=st.tuples(st.integers(1, 355), st.integers(1, 355)),
)
def test_sample_is_a_prefix_without_repeats(split: str, seed: int, sizes: tuple[int, int]) -> None:
    dataset, key = data.load("digits"), jax.random.key(seed)
    small, large = sorted(sizes)
    images, labels = data.sample(dataset, split, key, large)
    fewer, fewer_labels = data.sample(dataset, split, key, small)
    assert np.array_equal(images[:small], fewer) and np.array_equal(labels[:small], fewer_labels)
    positions = datasets._draw_positions(dataset, split, key, 0, large)
    assert len(set(positions.tolist())) == large
    raw, _ = getattr(dataset, split).fetch(positions)
    expected = (raw / 255.0 - np.array(dataset.mean)) / np.array(dataset.std)
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_a_full_draw_is_the_whole_split(digits: data.Dataset) -> None:
    images, labels = data.sample(digits, "test", jax.random.key(0), len(digits.test))
    everything, all_labels = data.all_examples(digits, "test")
    assert not np.array_equal(labels, all_labels)
    assert np.array_equal(np.sort(labels), np.sort(all_labels))
    assert float(jnp.abs(images.sum((1, 2, 3)).sort() - everything.sum((1, 2, 3)).sort()).max()) < 1


def test_draws_are_uniform(digits: data.Dataset) -> None:
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = [datasets._draw_positions(digits, "test", key, 0, 71) for key in keys]
    counts = np.bincount(np.concatenate(drawn), minlength=355)  # Expected 80, deviation 8.
    assert abs(counts - 80).max() < 5 * 8
    assert 0.7 < counts.var() / (80 * 0.8) < 1.3


def test_more_batches_continue_the_pass(digits: data.Dataset) -> None:
    key = jax.random.key(5)
    batch = data.draw(digits, key, 10, needs={"more_images", "more_labels"}, more=3)
    images, labels = data.sample(digits, "train", key_for(key, Purpose.TRAIN_IMAGES), 40)
    assert np.array_equal(
        jnp.concatenate([batch.images[None], batch.more_images]).reshape(images.shape), images
    )
    assert np.array_equal(batch.more_labels.reshape(-1), labels[10:])


@pytest.mark.parametrize("noise_std", [1e-2, 0.3])
def test_perturbation_has_the_variance_of_the_paper(digits: data.Dataset, noise_std: float) -> None:
    batch = data.draw(digits, jax.random.key(0), 64, noise_std=noise_std)
    noise = np.asarray(batch.perturbed_images - batch.test_images, np.float64)
    relative = 6 * np.sqrt(2 / noise.size)  # Six deviations of a sample variance.
    assert noise.var() == pytest.approx(noise_std**2, rel=relative)
    assert abs(noise.mean()) < 6 * noise_std / np.sqrt(noise.size)
    lag = (noise[:, :, 1:] * noise[:, :, :-1]).mean() / noise.var()
    assert abs(lag) < 6 / np.sqrt(noise.size)
    assert abs((noise[..., 0] * noise[..., 1]).mean() / noise.var()) < 0.03


def test_no_noise_is_no_perturbation(digits: data.Dataset) -> None:
    batch = data.draw(digits, jax.random.key(0), 4, noise_std=0.0)
    assert np.array_equal(batch.perturbed_images, batch.test_images)


def test_crops_are_windows_of_one_channel_of_training_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), np.uint8)
    split = data.Split("x/train", (6, 5, 3), 2, data_sources_array(images, np.zeros(7, np.int64)))
    dataset = data.Dataset(
        "x", 2, (6, 5, 3), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), (), split, split, ""
    )
    batch = data.draw(dataset, jax.random.key(0), 2, needs={"crops"}, num_crops=500)
    normal = (images / 255.0 - np.array(dataset.mean)) / np.array(dataset.std)
    windows = np.lib.stride_tricks.sliding_window_view(normal, (3, 3), (1, 2))
    flat = windows.reshape(-1, 9)  # Over images, rows, columns and channels.
    distance = np.abs(np.asarray(batch.crops).reshape(-1, 1, 9) - flat).max(-1)
    assert distance.min(1).max() < 1e-5
    index = np.array(np.unravel_index(distance.argmin(1), windows.shape[:4]))
    for axis, size in enumerate(windows.shape[:4]):  # Every image, place and channel occurs.
        counts = np.bincount(index[axis], minlength=size)
        assert counts.min() > 500 / size * 0.6, axis
    assert np.ptp(np.bincount(index[0], minlength=7)) <= 1  # Whole passes over the images.


def data_sources_array(images: np.ndarray, labels: np.ndarray):
    from saboc_jax.data.sources import ArrayReader

    return ArrayReader(images, labels, "a test")


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=50), centre=st.booleans())
def test_one_hot(labels: list[int], centre: bool) -> None:
    targets = np.asarray(jax.jit(data.one_hot, static_argnums=(1, 2))(jnp.array(labels), 7, centre))
    expected = np.zeros((len(labels), 7))
    expected[np.arange(len(labels)), labels] = 1
    if centre:
        expected -= np.bincount(labels, minlength=7) / len(labels)
    np.testing.assert_allclose(targets, expected, atol=1e-6)


def test_protocol(digits: data.Dataset) -> None:
    drawn = data.protocol(digits, jax.random.key(2), 32)
    assert same(drawn.batch, data.draw(digits, jax.random.key(2), 32))
    assert same(
        data.protocol(digits, jax.random.key(2)).batch, data.draw(digits, jax.random.key(2))
    )
    for targets, labels in (
        (drawn.targets, drawn.batch.labels),
        (drawn.test_targets, drawn.batch.test_labels),
    ):
        assert float(jnp.abs(targets.sum(0)).max()) < 1e-5
        assert float(jnp.abs(targets.sum(1)).max()) < 1e-5
        assert np.array_equal(targets.argmax(1), labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 2000}, r"2000 different examples from digits/train, which has 1442"),
        ({"size": 0}, "batch size is 0"),
        ({"size": 400}, r"400 different examples from digits/test, which has 355"),
        ({"size": 100, "needs": {"more_images"}, "more": 14}, r"1500 .* which has 1442"),
        ({"needs": {"image"}}, "no field 'image'.*perturbed_images"),
        ({"noise_std": -1.0}, "noise_std is -1.0"),
        ({"noise_std": float("nan")}, "noise_std is nan"),
        ({"more": 0}, "more is 0"),
        ({"num_crops": 0}, "num_crops is 0"),
        ({"crop_size": 33}, r"crop_size is 33, must be in \[1, 32\]"),
    ],
)
def test_wrong_arguments(digits: data.Dataset, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.draw(digits, jax.random.key(0), **arguments)


# Splits and the embedded digits.


def enlarged(grey: np.ndarray) -> np.ndarray:
    """Linear interpolation between pixel centres, one axis after the other."""
    centres = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)

    def along(axis: int, images: np.ndarray) -> np.ndarray:
        return np.apply_along_axis(lambda v: np.interp(centres, np.arange(8), v), axis, images)

    return along(2, along(1, grey * 255 / 16))


def test_digits_are_real_disjoint_and_balanced(digits: data.Dataset) -> None:
    with np.load(DIGITS) as file:
        grey, labels = file["images"].astype(float), file["labels"]
    assert (len(digits.train), len(digits.test)) == (1442, 355)
    images = np.concatenate([s.fetch(np.arange(len(s)))[0] for s in (digits.train, digits.test)])
    expected = enlarged(grey).reshape(1797, -1)
    flat = images[..., 0].reshape(1797, -1).astype(float)
    squares = (expected**2).sum(1) - 2 * flat @ expected.T
    nearest = squares.argmin(1)
    assert np.abs(flat - expected[nearest]).max() <= 0.5 + 1e-9
    assert sorted(nearest.tolist()) == list(range(1797))
    both = np.concatenate([s.fetch(np.arange(len(s)))[1] for s in (digits.train, digits.test)])
    assert np.array_equal(labels[nearest], both)
    assert np.bincount(both[1442:]).min() >= 34 and np.bincount(both[1442:]).max() <= 36
    everything, _ = data.all_examples(digits, "train")
    assert float(jnp.abs(everything.mean((0, 1, 2))).max()) < 1e-4
    assert float(jnp.abs(everything.std((0, 1, 2)) - 1).max()) < 1e-4


def test_digits_are_those_of_scikit_learn_bit_by_bit() -> None:
    published = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    grey, labels = published.load_digits(return_X_y=True)
    with np.load(DIGITS) as file:
        assert np.array_equal(file["images"].reshape(1797, 64), grey)
        assert np.array_equal(file["labels"], labels)
        assert "CC BY 4.0" in str(file["source"])
    assert DIGITS.stat().st_size < 100_000


def test_enlarging_is_linear_interpolation_between_pixel_centres() -> None:
    from saboc_jax.data.sources import _enlarge

    grey = np.random.default_rng(0).integers(0, 17, (3, 8, 8))
    enlarged_here = _enlarge(grey)
    assert np.abs(enlarged_here - enlarged(grey)[..., None]).max() <= 0.5 + 1e-9
    assert enlarged_here.dtype == np.uint8 and enlarged_here.shape == (3, 32, 32, 3)


@pytest.mark.parametrize(
    ("indices", "message"),
    [([355], r"index 355 of digits/test, must be in \[0, 355\)"), ([-1], "index -1"),
     ([[0]], "one-dimensional"), ([0.5], "integers")],
)  # fmt: skip
def test_wrong_indices(digits: data.Dataset, indices: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        digits.test.fetch(indices)
    with pytest.raises(ValueError, match="no split 'val'"):
        data.fetch(digits, "val", [0])


def test_images_and_labels_are_checked() -> None:
    reader = data_sources_array(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 3]))
    with pytest.raises(ValueError, match=r"a test: label 3 in x, must be in \[0, 3\)"):
        data.Split("x", (4, 4, 3), 3, reader).fetch([0, 1])
    with pytest.raises(ValueError, match=r"a test: images of x are uint8 \(4, 4, 3\)"):
        data.Split("x", (4, 5, 3), 4, reader).fetch([0])
    assert data.Split("x", (4, 4, 3), 4, reader).fetch([])[0].shape == (0, 4, 4, 3)


# The real data.


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet16_120_standin"])
def test_real_images(shared: Path, name: str) -> None:
    dataset = data.load(name, shared)
    assert len(dataset.class_names) == dataset.num_classes
    for split in ("train", "test"):
        images, labels = data.sample(dataset, split, jax.random.key(0), 1000)
        again, _ = data.sample(dataset, split, jax.random.key(0), 1000)
        assert np.array_equal(images, again)
        assert images.shape == (1000, *dataset.image_shape)
        # Published constants normalise real images: deviations of a mean of 1,000 images.
        assert float(jnp.abs(images.mean((0, 1, 2))).max()) < 0.15
        assert float(jnp.abs(images.std((0, 1, 2)) - 1).max()) < 0.1
        assert len(np.unique(labels)) > 0.95 * dataset.num_classes
    drawn = data.protocol(dataset, jax.random.key(1))
    assert drawn.targets.shape == (64, dataset.num_classes)
    assert not np.array_equal(drawn.batch.images, drawn.batch.test_images)


def test_reading_cifar_needs_no_tensorflow(shared: Path) -> None:
    code = (
        "import sys, jax; from saboc_jax import data;"
        "data.draw(data.load('cifar10'), jax.random.key(0), 4);"
        "print('tensorflow' in sys.modules)"
    )
    assert run(code, SABOC_DATA_DIR=str(shared)) == "False"
    assert data.default_name(shared) == "cifar10"
