"""Inner products of per-example gradients, rows with columns."""

from typing import NamedTuple

from jax import lax
from jaxtyping import Array, Float

from saboc_jax.precision import inner_products


class Columns(NamedTuple):
    """The leading examples of a batch: columns of the kernel, source of frozen statistics.

    Attributes:
        here: how many this device has.
        axis: the mesh axis that divides them evenly over devices; None: one device has all.
    """

    here: int
    axis: str | None = None

    @property
    def number(self) -> int:
        """The number of columns on all devices."""
        return self.here if self.axis is None else self.here * lax.psum(1, self.axis)

    def of(self, a: Float[Array, "n p"]) -> Float[Array, "m p"]:
        """Returns the columns' rows of all devices, in the order of devices."""
        rows = a[: self.here]
        return rows if self.axis is None else lax.all_gather(rows, self.axis, tiled=True)


def gram(a: Float[Array, "n p"], columns: Columns) -> Float[Array, "n m"]:
    """Computes the inner products of all rows with the columns' rows."""
    return inner_products(a, columns.of(a))
