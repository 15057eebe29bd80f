"""A wrong batch is refused in one sentence that names the field (optax #1185)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saboc_jax.scorers.batches import check_batch, tells_apart
from saboc_jax.types import Batch

IMAGES = np.random.default_rng(0).standard_normal((8, 4, 4, 3), np.float32)
LABELS = np.arange(8) % 4
GOOD = Batch(IMAGES, LABELS, IMAGES, LABELS)
PIXELS = (IMAGES * 40).astype(np.uint8)

WRONG = {
    "uint8 images": ({"images": PIXELS}, "images of shape .*uint8; allowed: floating-point"),
    "NaN images": ({"images": IMAGES * np.nan}, "images .*finite numbers, but 384 are NaN"),
    "an infinite test pixel": ({"test_images": IMAGES + np.inf}, "test_images .*finite"),
    "no image": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images .*one or more"),
    "words": ({"images": ["a", "b"]}, "images is a list"),
    "a ragged list": ({"labels": [[1], [2, 3]]}, "labels is a list"),
    "0-d labels": ({"labels": np.array(1)}, r"labels of shape \(\)"),
    "one-hot labels": ({"labels": np.eye(4)[LABELS]}, r"labels of shape \(8, 4\).*argmax"),
    "float labels": ({"labels": LABELS * 1.0}, "labels .*float64; allowed: 1 axis of whole"),
    "7 labels": ({"labels": LABELS[:7]}, r"labels .*allowed: shape \(8,\)"),
    "labels from 1": ({"labels": LABELS + 1}, "labels from 1 to 4; allowed: .*0 to 3"),
    "labels below 0": ({"test_labels": LABELS - 1}, "test_labels from -1 to 2"),
    "labels from 100": ({"labels": LABELS + 100}, "labels from 100 to 103"),
    "labels of booleans": ({"labels": LABELS > 1}, "labels .*bool"),
    "other test images": ({"test_images": IMAGES[:, :2]}, r"test_images .*\(4, 4, 3\)"),
    "fewer perturbed images": ({"perturbed_images": IMAGES[:4]}, "perturbed_images .*8 examples"),
    "more labels of one axis": (
        {"more_images": IMAGES[None], "more_labels": LABELS}, "more_labels .*2 axes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_field_is_refused_by_name(what):
    fields, message = WRONG[what]
    with pytest.raises(ValueError, match=message) as caught:
        check_batch(GOOD._replace(**fields), num_classes=4)
    assert "\n" not in str(caught.value)


def test_another_object_is_refused():
    with pytest.raises(ValueError, match=r"a tuple as a batch; allowed: a saboc_jax\.Batch"):
        check_batch((IMAGES, LABELS))


def test_lists_become_arrays_and_labels_may_be_missing():
    made = check_batch(Batch(IMAGES.tolist(), LABELS.tolist(), IMAGES), num_classes=4)
    assert made.images.dtype == np.float32 and made.labels.tolist() == LABELS.tolist()
    assert check_batch(Batch(IMAGES, None)).labels is None
    assert check_batch(GOOD, 4) == GOOD


def test_inputs_may_be_trees_and_tokens_and_traced():
    tokens = {"tokens": np.arange(16).reshape(8, 2), "mask": np.ones((8, 2), np.float32)}
    assert check_batch(Batch(tokens, LABELS)).images["tokens"].shape == (8, 2)
    seen = jax.jit(lambda x: check_batch(Batch(x, None)).images.sum())(jnp.full((2, 3), jnp.nan))
    assert np.isnan(seen)


def test_what_differs_is_told_without_a_compiled_program():
    reads = type("Reads", (), {"needs": frozenset({"images", "labels"})})
    assert tells_apart(reads, GOOD)
    assert not tells_apart(reads, GOOD._replace(labels=LABELS * 0))
    assert not tells_apart(reads, GOOD._replace(images=IMAGES * 0))
    assert tells_apart(reads, GOOD._replace(test_images=IMAGES * 0))
