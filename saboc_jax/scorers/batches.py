"""The one place where a batch is checked, and what a batch cannot tell apart.

A wrong batch is refused in one sentence that names the field and what is allowed, for every
scorer the same. A well-formed batch in which nothing differs (one class, one image, the same
image n times) gives no value: every scorer that reads the field has NaN, which is flagged.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from saboc_jax.types import Batch, Scorer

INPUTS = ("images", "test_images", "perturbed_images", "more_images", "crops")
LABELS = {"labels": "images", "test_labels": "test_images", "more_labels": "more_images"}
LARGEST = 1e18  # squares of larger numbers are infinite in float32, and a batch norm squares


def check_batch(
    batch: Batch, num_classes: int | None = None, loss: str | None = "cross_entropy"
) -> Batch:
    """Returns the batch with arrays for lists.

    Args:
        batch: fields that are None are not read. Values of traced arrays are not checked.
        num_classes: number of outputs of the network, which labels number from 0. None: unknown.
        loss: "cross_entropy": labels are classes; "square": they are floating-point targets
            [n, outputs], or [n] for one output; None: unknown, either.

    Raises:
        ValueError: names the field and what is allowed.
    """
    if not isinstance(batch, Batch):
        raise ValueError(f"a {type(batch).__name__} as a batch; allowed: a saboc_jax.Batch")
    given = {name: value for name, value in batch._asdict().items() if value is not None}
    arrays = {
        name: jax.tree.map(lambda leaf, n=name: _array(n, leaf), value, is_leaf=_is_list)
        for name, value in given.items()
    }
    for name in INPUTS:
        for leaf in jax.tree.leaves(arrays.get(name)):
            _check_inputs(name, leaf)
    for name, of in LABELS.items():
        if name in arrays:
            examples = _length(arrays.get(of), name)
            if loss == "square" or (
                loss is None and jnp.issubdtype(arrays[name].dtype, jnp.floating)
            ):
                arrays[name] = _targets(name, arrays[name], of, examples, num_classes)
            else:
                _check_labels(name, arrays[name], of, examples, num_classes)
    _check_alike(arrays)
    return batch._replace(**arrays)


def check_needs(scorer: Scorer, batch: Batch) -> None:
    """Raises ValueError if a field that the scorer needs is None."""
    missing = sorted(name for name in scorer.needs if getattr(batch, name) is None)
    if missing:
        raise ValueError(f"scorer {scorer.name!r} needs the batch fields {missing}, got None")


def outputs_and_loss(scorer: Scorer) -> tuple[int | None, str | None]:
    """Returns (number of outputs, loss) of a scorer's networks; None: it observes none."""
    spaces: Any = (getattr(each, "space", None) for each in scorer.observables.values())
    space = next((space for space in spaces if space is not None), None)
    return (None, None) if space is None else (space.num_classes, space.loss)


def differs(batch: Batch, name: str) -> Any:
    """Returns whether a field tells examples apart: a boolean, traced if the field is."""
    value = getattr(batch, name)
    if name in LABELS:
        array = _numbers(value).asarray(value)
        axes = 1 if array.dtype.kind in "iu" else 2  # classes, or rows of targets
        rows = array.reshape(-1, *array.shape[array.ndim - axes + 1 :])
        return (rows != rows[:1]).any()
    if name == "more_images":
        value = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), value)
    return _any(_varies(leaf) for leaf in jax.tree.leaves(value))


def tells_apart(scorer: Scorer, batch: Batch) -> Any:
    """Returns whether every field that the scorer reads tells examples apart; see the module."""
    found: Any = True
    for name in sorted(scorer.needs & {*INPUTS, *LABELS}):
        found = found & differs(batch, name)
    return found


def _varies(leaf: Any) -> Any:
    xp = _numbers(leaf)
    small = xp.abs(leaf).max() < LARGEST if leaf.dtype.kind == "f" else True
    return (leaf != leaf[:1]).any() & small


def _any(values: Any) -> Any:
    found: Any = False
    for value in values:
        found = found | value
    return found


def _numbers(value: Any) -> Any:
    """Returns NumPy for arrays with values, which compiles nothing, and jax.numpy for traced."""
    return jnp if isinstance(value, jax.core.Tracer) else np


def _is_list(value: Any) -> bool:
    """Is it numbers in lists, rather than a tree of arrays?"""
    if not isinstance(value, list | tuple):
        return False
    return not any(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(value))


def _array(name: str, value: Any) -> Any:
    if isinstance(value, jax.Array | np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        array = np.empty((), object)
    if array.dtype.kind not in "biufc":
        raise ValueError(
            f"{name} is a {type(value).__name__} of no one shape and type; allowed: an array of "
            "numbers"
        )
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _says(name: str, array: Any, allowed: str) -> ValueError:
    return ValueError(f"{name} of shape {array.shape} and type {array.dtype}; allowed: {allowed}")


def _check_inputs(name: str, leaf: Any) -> None:
    floating = jnp.issubdtype(leaf.dtype, jnp.floating)
    tokens = leaf.dtype.kind in "ib" and leaf.ndim < 4  # masks are boolean
    if not floating and not tokens:
        pixels = "floating-point numbers (of pixels: those of (pixels / 255 - mean) / deviation)"
        raise _says(name, leaf, pixels)
    if leaf.ndim < 1 or not leaf.size:
        raise _says(name, leaf, "one or more examples along the first axis")
    if floating and not isinstance(leaf, jax.core.Tracer):
        bad = ~np.isfinite(np.asarray(leaf, np.float32 if leaf.dtype.itemsize < 4 else None))
        if bad.any():
            raise _says(name, leaf, f"finite numbers, but {int(bad.sum())} are NaN or infinite")


def _length(inputs: Any, name: str) -> tuple[int, ...] | None:
    """Returns the shape that labels of the inputs have; None: there are no inputs."""
    leaves = jax.tree.leaves(inputs)
    return leaves[0].shape[: 1 + (name == "more_labels")] if leaves else None


def _check_labels(
    name: str, labels: Any, of: str, shape: tuple[int, ...] | None, num_classes: int | None
) -> None:
    last = "" if num_classes is None else f" to {num_classes - 1}"
    wanted = f"whole numbers, the classes 0{last}"
    axes = 2 if name == "more_labels" else 1
    if shape is not None and labels.ndim == axes and labels.shape != shape:
        raise _says(name, labels, f"shape {shape}, a label for each of {of}")
    if labels.ndim != axes or labels.dtype.kind not in "iu":
        hint = " (of one-hot labels: labels.argmax(-1))" if labels.ndim == axes + 1 else ""
        if jnp.issubdtype(labels.dtype, jnp.floating):
            hint += ", or targets of a module of your own with loss='square'"
        raise _says(name, labels, f"{axes} {'axis' if axes == 1 else 'axes'} of {wanted}{hint}")
    if isinstance(labels, jax.core.Tracer):
        return
    values = np.asarray(labels)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise ValueError(f"{name} from {values.min()} to {values.max()}; allowed: {wanted}")


def _targets(
    name: str, targets: Any, of: str, shape: tuple[int, ...] | None, outputs: int | None
) -> Any:
    """Returns targets of the square loss with an axis of outputs."""
    axes = 2 if name == "more_labels" else 1
    if targets.ndim == axes and outputs in (1, None):
        targets = targets[..., None]
    width = "outputs" if outputs is None else outputs
    examples = "n" if shape is None else ", ".join(str(size) for size in shape)
    fits = targets.ndim == axes + 1 and (shape is None or targets.shape[:-1] == shape)
    if not fits or targets.shape[-1] != (outputs or targets.shape[-1]):
        raise _says(
            name, targets, f"[{examples}, {width}], targets of the square loss for each of {of}"
        )
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise _says(name, targets, "floating-point numbers, targets of the square loss")
    if not isinstance(targets, jax.core.Tracer) and not np.isfinite(np.asarray(targets)).all():
        raise _says(name, targets, "finite numbers, targets of the square loss")
    return targets


def _check_alike(arrays: dict[str, Any]) -> None:
    """Raises ValueError unless examples of all fields have the shape of `images`."""
    like = jax.tree.map(lambda leaf: leaf.shape[1:], arrays.get("images"))
    checks: dict[str, Callable[[Any], tuple[int, ...]]] = {
        "test_images": lambda leaf: leaf.shape[1:],
        "perturbed_images": lambda leaf: leaf.shape[1:],
        "more_images": lambda leaf: leaf.shape[2:],
    }
    for name, shape_of in checks.items():
        if name in arrays and like is not None and jax.tree.map(shape_of, arrays[name]) != like:
            leaf = jax.tree.leaves(arrays[name])[0]
            raise _says(name, leaf, f"examples of shape {like}, as in images")
    test, perturbed = (arrays.get(name) for name in ("test_images", "perturbed_images"))
    if test is not None and perturbed is not None:
        first, other = jax.tree.leaves(test)[0], jax.tree.leaves(perturbed)[0]
        if len(first) != len(other):
            raise _says("perturbed_images", other, f"{len(first)} examples, as in test_images")
