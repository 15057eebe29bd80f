"""The cross-entropy of outputs with labels or with probabilities."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


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
