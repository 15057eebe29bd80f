"""Batch norm statistics: the mean and the variance of each channel."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def statistics(
    x: Float[Array, "... c"], axis: str | None = None
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Returns mean and (biased) variance of each channel, in two passes: exact to rounding.

    Args:
        x: examples; the same number on each device.
        axis: the mesh axis that divides the examples over devices; None: one device has all.
    """
    axes = tuple(range(x.ndim - 1))
    over_all = lambda mean: mean if axis is None else lax.pmean(mean, axis)  # noqa: E731
    mean = over_all(x.mean(axes))
    return mean, over_all(jnp.square(x - mean).mean(axes))
