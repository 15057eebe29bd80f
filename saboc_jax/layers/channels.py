"""What batch norm reads of its inputs: the mean and the variance of each channel."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def statistics(
    x: Float[Array, "... c"], axis: str | None = None
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean and (biased) variance of each channel, in two passes: exact to rounding.

    Args:
        x: equally many examples on each device.
        axis: of a mesh over whose devices the examples are shared out; None: all are here.
    """
    axes = tuple(range(x.ndim - 1))
    over_all = lambda mean: mean if axis is None else lax.pmean(mean, axis)  # noqa: E731
    mean = over_all(x.mean(axes))
    return mean, over_all(jnp.square(x - mean).mean(axes))
