"""Inner products of per-example gradients, rows with columns."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from saboc_jax.precision import PRECISION, inner_products

LARGE = 1 << 26  # numbers of all gradients [n, in, out] that fill the memory


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


def gram_of_places(
    x: Float[Array, "n places inner"], g: Float[Array, "n places outer"], columns: Columns
) -> Float[Array, "n m"] | None:
    """Computes the Gram matrix of the gradients of a product, sums of outer products over places.

    Products of inner products need no gradient; None: they cost more than gradients do.
    """
    n, places, inner, outer = *x.shape, g.shape[2]
    if places == 1:
        return gram(x[:, 0], columns) * gram(g[:, 0], columns)
    pairs = columns.number * places * places * (inner + outer)
    gradients = places * inner * outer + columns.number * inner * outer
    # Gradients that would fill the memory are worth some more operations.
    patience = 32 if n * inner * outer > LARGE else 1
    if pairs > patience * gradients:
        return None
    here, there = x.reshape(n, -1), g.reshape(n, -1)
    x2 = columns.of(here).reshape(-1, places, inner)
    g2 = columns.of(there).reshape(-1, places, outer)
    product = partial(jnp.einsum, "itd,jsd->ijts", precision=PRECISION)
    return jnp.einsum("ijts,ijts->ij", product(x, x2), product(g, g2), precision=PRECISION)
