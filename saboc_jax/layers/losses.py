"""Losses of outputs: the cross-entropy with labels or with probabilities, the square loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LOSSES = ("cross_entropy", "square")  # of classes, and of floating-point targets


def cross_entropy(
    logits: Float[Array, "n classes"], targets: Float[Array, "n classes"]
) -> Float[Array, " n"]:
    """The cross-entropy of each example with its target probabilities."""
    return -(targets * jax.nn.log_softmax(logits)).sum(-1)


def label_cross_entropy(
    logits: Float[Array, "n classes"], labels: Int[Array, " n"]
) -> Float[Array, " n"]:
    """The cross-entropy of each example with its label.

    It reads one entry of each row. A product with one-hot targets would be NaN if the logarithm
    of another class's probability overflows.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]


def example_loss(outputs: Float[Array, "n k"], labels: Array) -> Float[Array, " n"]:
    """The loss of each example: its cross-entropy with a class, the square loss of a target.

    Args:
        outputs: [n, k], logits where labels are classes.
        labels: [n] classes; or [n, k] floating-point targets, of which it is |f - y|^2 / 2.
    """
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return 0.5 * jnp.square(outputs - labels).sum(-1)
    return label_cross_entropy(outputs, labels)
